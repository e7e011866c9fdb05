"""Plans keep every budget that can be kept, and name the smallest one that can."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltx_a2v.errors import BudgetTooSmall, InvalidRequest
from ltx_a2v.hardware.budget import Budget, at_least, parse_bytes
from ltx_a2v.planning.plan import NO_ROOM_FOR_GRAPHS, GraphsNeed, PhaseNeed, Sizes, make_plan, smallest_budget
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import spread

sizes = st.builds(Sizes, st.integers(0, 50), st.lists(st.integers(1, 40), max_size=12).map(tuple))
models = st.fixed_dictionaries(dict.fromkeys(("text_encoder", "transformer", "distilled", "video_decoder"), sizes))
activations = st.integers(0, 100)
NETWORKS = {
    "text_encoder": ("text_encoder",),
    "stage_1": ("transformer",),
    "stage_2": ("transformer", "distilled"),
    "decode": ("video_decoder",),
}


def needs_of(amounts: tuple[int, ...]) -> list[PhaseNeed]:
    return [PhaseNeed(name, networks, n) for (name, networks), n in zip(NETWORKS.items(), amounts, strict=True)]


@given(
    models,
    st.tuples(*[activations] * 4),
    st.integers(0, 800),
    st.integers(0, 1000),
    st.sampled_from(["nothing", "host", "device"]),
)
def test_every_budget_is_kept_or_refused(
    model: dict[str, Sizes], amounts: tuple[int, ...], budget: int, host: int, keep: str
) -> None:
    needs = needs_of(amounts)
    smallest = smallest_budget(model, needs)
    if budget < smallest:
        with pytest.raises(BudgetTooSmall):
            make_plan(model, needs, budget, host, keep)
        return
    plan = make_plan(model, needs, budget, host, keep)
    assert plan.peak <= budget
    assert plan.host_bytes <= 0.8 * host
    assert plan.bus_bytes_per_step <= sum(model["transformer"].blocks)


@given(models, st.tuples(*[activations] * 4))
def test_the_smallest_budget_works_and_no_budget_streams_nothing(
    model: dict[str, Sizes], amounts: tuple[int, ...]
) -> None:
    needs = needs_of(amounts)
    make_plan(model, needs, smallest_budget(model, needs), 10**9)
    plan = make_plan(model, needs, None, 10**9)
    assert plan.bus_bytes_per_step == 0
    assert all(placement.resident_blocks is None for placement in plan.placements.values())


@given(st.integers(1, 60), st.data())
def test_resident_blocks_are_spread_evenly(count: int, data: st.DataObject) -> None:
    resident = data.draw(st.integers(0, count))
    chosen = sorted(spread(count, resident))
    assert len(chosen) == resident
    assert all(0 <= i < count for i in chosen)
    gaps = [b - a for a, b in pairwise([*chosen, *(i + count for i in chosen[:1])])]  # across the end of a sweep too
    if gaps:
        assert max(gaps) - min(gaps) <= 1


def test_lora_factors_are_streamed_before_the_transformer() -> None:
    model = {"transformer": Sizes(10, (10,) * 10), "distilled": Sizes(0, (4,) * 10)}
    needs = [PhaseNeed("stage_2", ("transformer", "distilled"), 0)]
    plan = make_plan(model, needs, 130, 10**9)
    assert plan.placements["transformer"].resident_blocks is None
    assert plan.placements["distilled"] == Placement("host", 3, whole_copy=False)
    assert plan.host_bytes == 7 * 4  # of what is streamed


def test_refusals_say_what_would_do() -> None:
    model = {"transformer": Sizes(2**30, (2**30,) * 4)}
    needs = [PhaseNeed("stage_1", ("transformer",), 2**30)]
    with pytest.raises(BudgetTooSmall, match=r"2\.00 GiB cannot hold this: stage_1 .* budget that works is 4\.00 GiB"):
        make_plan(model, needs, 2 * 2**30, 10**12)


@pytest.mark.parametrize(
    ("text", "count"), [("12GiB", 12 * 2**30), ("8G", 8 * 10**9), ("500mb", 5 * 10**8), ("1.5 GiB", 3 * 2**29)]
)
def test_budgets(text: str, count: int) -> None:
    assert Budget(text).resolve(torch.device("cpu")) == count


@pytest.mark.parametrize("text", ["", "0", "lots", "-3GiB", "0%", "120%", "x%", "12 parsecs"])
def test_nonsense_budgets(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Budget(text)


def test_no_limit_on_a_cpu() -> None:
    assert Budget("auto").resolve(torch.device("cpu")) is None
    assert Budget("unlimited").resolve(torch.device("cpu")) is None


def test_what_no_smaller_video_changes_is_not_advised() -> None:
    needs = [PhaseNeed("connectors", ("connectors",), 3 * 2**30), PhaseNeed("stage_1", ("transformer",), 2**30)]
    model = {"connectors": Sizes(0), "transformer": Sizes(0)}
    with pytest.raises(BudgetTooSmall, match=r"at any size; the smallest budget that works is 3\.00 GiB") as error:
        make_plan(model, needs, 2**30 // 2, 10**12)
    assert "width" not in str(error.value)


@given(st.integers(1, 2**36))
def test_an_amount_rounded_up_is_enough_when_it_is_given(count: int) -> None:
    assert count <= parse_bytes(at_least(count), "vram_budget") <= count * 1.5 + 2**20


def test_short_host_memory_streams_from_the_file_and_says_how_much_it_lacks() -> None:
    gib = 2**30
    model = {"transformer": Sizes(gib, (gib,) * 7), "distilled": Sizes(0, (gib,) * 2)}
    needs = [PhaseNeed("stage_1", ("transformer",), 0), PhaseNeed("stage_2", ("transformer", "distilled"), 0)]
    short = make_plan(model, needs, 6 * gib, host_available=7 * gib)  # six blocks and two, all streamed
    assert short.placements["transformer"].home == "file"
    assert "8.00 GiB of at least 10.00 GiB that should be available, and 7.00 GiB are" in short.notes[0]
    partly = make_plan(model, needs, 6 * gib, host_available=8 * gib)
    assert partly.placements["transformer"].home == "host"  # swept most often
    assert partly.placements["distilled"].home == "file"
    enough = make_plan(model, needs, 6 * gib, host_available=11 * gib)
    assert {enough.placements[name].home for name in model} == {"host"}
    assert not enough.notes


def test_blocks_that_are_streamed_are_read_while_others_compute() -> None:
    model = {"transformer": Sizes(10, (10,) * 8, reading=3), "distilled": Sizes(0, (2,) * 8, reading=1)}
    needs = [PhaseNeed("stage_2", ("transformer", "distilled"), 5)]
    peaks = {budget: make_plan(model, needs, budget, 10**9).phases[0] for budget in (None, 111, 110, 90)}
    assert peaks[None].activations == peaks[111].activations == 5
    assert peaks[110].activations == 6  # the LoRA's blocks alone
    assert peaks[90].activations == 9


def test_what_computes_little_still_has_to_be_read() -> None:
    needs = [PhaseNeed("decode", ("video_decoder",), 5)]
    assert make_plan({"video_decoder": Sizes(10, reading=7)}, needs, None, 0).peak == 17


@pytest.mark.parametrize(("keep", "home"), [("nothing", "file"), ("host", "host")])
def test_the_text_encoder_is_copied_to_host_memory_only_to_be_kept(keep: str, home: str) -> None:
    model = {"text_encoder": Sizes(1, (1,) * 7), "transformer": Sizes(1, (1,) * 7)}
    needs = [PhaseNeed("text_encoder", ("text_encoder",), 0), PhaseNeed("stage_1", ("transformer",), 0)]
    placements = make_plan(model, needs, 6, host_available=10**9, keep=keep).placements
    assert placements["text_encoder"].home == home
    assert placements["transformer"].home == "host"


def test_what_is_kept_in_host_memory_is_whole_where_it_fits() -> None:
    model = {"transformer": Sizes(1, (1,) * 7)}
    needs = [PhaseNeed("stage_1", ("transformer",), 0)]
    assert make_plan(model, needs, 6, host_available=10, keep="host").host_bytes == 8
    assert make_plan(model, needs, 6, host_available=9, keep="host").host_bytes == 4


def test_a_limit_of_host_memory_is_kept_where_more_is_available() -> None:
    gib = 2**30
    model = {"transformer": Sizes(gib, (gib,) * 7)}
    needs = [PhaseNeed("stage_1", ("transformer",), 0)]
    limited = make_plan(model, needs, 3 * gib, 10**12, host_limit=6 * gib)
    assert limited.placements["transformer"].home == "file"
    assert limited.host_bytes == 0
    assert "would take 7.00 GiB, and the limit set for host memory allows 6.00 GiB" in limited.notes[0]
    assert make_plan(model, needs, 3 * gib, 10**12, host_limit=7 * gib).host_bytes == 7 * gib


def test_graphs_are_left_out_where_the_budget_holds_without_them_only() -> None:
    model = {"transformer": Sizes(10, (10,) * 4)}
    plain = [PhaseNeed("stage_1", ("transformer",), 5), PhaseNeed("decode", ("transformer",), 6)]
    needs = [replace(plain[0], graphs=GraphsNeed(more=3, kept=7)), plain[1]]
    plans = {budget: make_plan(model, needs, budget, 10**9) for budget in (None, 38, 37, 36)}
    assert [(plan.graphs, plan.notes) for plan in plans.values()] == [
        (True, ()),
        (True, ()),
        (False, (NO_ROOM_FOR_GRAPHS,)),
        (False, (NO_ROOM_FOR_GRAPHS,)),
    ]
    assert {plan.smallest for plan in plans.values()} == {smallest_budget(model, plain)} == {36}
    assert [phase.activations for phase in plans[38].phases] == [8, 6]
    assert plans[36].phases == make_plan(model, plain, 36, 10**9).phases


def test_graphs_that_are_kept_take_memory_in_every_phase_but_do_not_move_weights() -> None:
    model = {"transformer": Sizes(50)}
    needs = [
        PhaseNeed("stage_1", ("transformer",), 5, GraphsNeed(more=3, kept=7)),
        PhaseNeed("stage_2", ("transformer",), 6, GraphsNeed(more=4, kept=2)),
        PhaseNeed("decode", ("transformer",), 1),
    ]
    kept = make_plan(model, needs, 67, 10**9, keep="device")
    assert (kept.keep, kept.graphs) == ("device", True)
    assert [phase.activations for phase in kept.phases] == [5 + 3 + 2, 6 + 4 + 7, 1 + 9]
    tight = make_plan(model, needs, 66, 10**9, keep="device")
    assert (tight.keep, tight.graphs, tight.notes) == ("device", False, (NO_ROOM_FOR_GRAPHS,))
    assert tight.peak == 56
