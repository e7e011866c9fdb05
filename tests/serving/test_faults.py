"""Every fault of the table, in its short form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.serving.faults import FAULTS, NEED_MOUNT, Fault

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault(fault: Fault, tmp_path: Path) -> None:
    if fault in NEED_MOUNT and os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    row = fault(tmp_path, True)
    assert row.is_right, row
