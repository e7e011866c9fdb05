"""Equal to the reference: its recorded outputs for the miniature model, in float32 on a CPU.

The recordings were made with LTX-2 1.2.0's `A2VidPipelineTwoStage` on the same files (working dtype patched from
bfloat16 to float32). Stage 2 differs by the rounding of the reference's fused LoRA to bfloat16.
"""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance
from tests.conftest import ROOT

RECORDED = Path(__file__).parent / "data" / "recorded"
CASES = json.loads((RECORDED / "cases.json").read_text())


def relative(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", CASES)
def test_stages_and_frames_equal_the_references(name: str, pipeline: A2VPipeline, tmp_path: Path) -> None:
    case, expected = dict(CASES[name]), load_file(RECORDED / f"{name}.safetensors")
    case["guidance"] = Guidance(**case["guidance"])
    for file in ("audio", "image"):
        case[file] = case[file] and ROOT / "examples" / case[file]
    latents, video = tmp_path / "latents.safetensors", tmp_path / "video.mp4"
    pipeline.run(GenerationRequest(**case, output_path=video, save_latents=latents))

    result = load_file(latents)
    assert result["stage_1"].dtype == torch.float32
    assert relative(result["stage_1"], expected["stage_1"]) < 1e-5
    assert relative(result["stage_2"], expected["stage_2"]) < 5e-3
    frames = torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in av.open(str(video)).decode(video=0)])
    assert frames.shape[0] == case["num_frames"]
    # the recorded frames have not been through H.264; it costs about 0.025 on this model's mosaic
    difference = (frames[::8].float() - expected["frames"].float()).abs().mean() / 255
    assert difference < 0.04
