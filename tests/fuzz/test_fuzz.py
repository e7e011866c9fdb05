"""A few seconds of every target, the same inputs each time. `scripts/fuzz.py` goes on for as long as it is told."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS, changed

EXAMPLES = 150

quick = settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@cache
def seeds(name: str) -> list[bytes]:
    return SEEDS[name]()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_valid_inputs_and_any_bytes(name: str) -> None:
    for seed in (*seeds(name), b"", b"\0" * 100):
        TARGETS[name](seed)

    @quick
    @given(st.binary(max_size=300))
    def any_bytes(content: bytes) -> None:
        TARGETS[name](content)

    any_bytes()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_changed_inputs(name: str) -> None:
    @quick
    @given(st.data(), st.randoms(use_true_random=True))
    def changed_seeds(data: st.DataObject, choose) -> None:
        TARGETS[name](changed(data.draw(st.sampled_from(seeds(name))), choose))

    changed_seeds()
