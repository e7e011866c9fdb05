"""What streaming from host memory takes of it: one copy, also while it fills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ltx_a2v import ModelPaths
from tests.large_model import write_large_model

MEASURE = """
import sys
from pathlib import Path

import torch

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.settings.loading import LoadOptions
from ltx_a2v.residency.network import Placement

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

torch.set_num_threads(2)
pipeline = A2VPipeline.open(
    ModelPaths(*map(Path, sys.argv[1:5])), device="cpu", dtype=torch.bfloat16, options=LoadOptions("none")
)
network = pipeline._networks._networks["transformer"]
placement = Placement("host", 0)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
start = status("VmRSS")
with network.use(placement) as loaded:
    loaded.begin(3)
    for _ in range(3):
        for _ in loaded.stream.sweep():
            pass
peak = status("VmHWM") - start
sizes = pipeline._networks._sizes["transformer"]
network.release()
after = status("VmRSS") - start
print(peak, after, sizes.total, sizes.on_device(placement))
"""
READERS = 2**28
"""What the reading threads have in flight (`settings.READ_CHUNK_BYTES`)."""
ALLOWANCE = 2**27
"""Threads, kernels and what the allocator keeps."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured with Linux's /proc")
def test_one_copy_in_host_memory_and_no_second(model: ModelPaths, tmp_path: Path) -> None:
    large = write_large_model(model, tmp_path)
    files = (large.checkpoint, large.distilled_lora, large.spatial_upsampler, large.gemma_root)
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, after, copy, on_device = map(int, done.stdout.split())

    assert copy > 2**31
    assert copy <= peak  # it was there
    assert peak <= 1.1 * copy + on_device + READERS + ALLOWANCE  # the device is this process too
    assert after <= READERS + ALLOWANCE
