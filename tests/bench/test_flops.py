"""The count of a step's operations against torch's own counter."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ltx_a2v import A2VPipeline, miniature
from ltx_a2v.bench.flops import step_flops
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.versions import NEWEST

GRID = LatentGrid(3, 2, 4)
AUDIO, TEXT = 12, 30
ALL = frozenset(Pass)
SETS = [ALL, *(frozenset({Pass.POSITIVE, *others}) for n in range(3) for others in combinations(ALL, n))]


@pytest.mark.parametrize("passes", sorted(set(SETS), key=sorted), ids=lambda passes: "-".join(p.name for p in passes))
@pytest.mark.parametrize("perturbed", [frozenset({0}), frozenset({2})])
@torch.inference_mode()
def test_equals_torchs_counter(pipeline: A2VPipeline, passes: frozenset[Pass], perturbed: frozenset[int]) -> None:
    draw = lambda *shape: torch.randn(*shape)  # noqa: E731
    mask = torch.ones(1, GRID.frames, 1, 1)
    inputs = StageInputs(
        GRID, 24.0, mask, draw(1, AUDIO, 128), draw(1, TEXT, 128), draw(1, TEXT, 128), draw(1, TEXT, 64)
    )
    with pipeline.model.within({}).use("transformer") as transformer:
        forward = StageForward(transformer, inputs, passes, perturbed)
        latent, sigma = draw(1, GRID.tokens, 128), torch.tensor(0.7)
        forward.velocities(latent, sigma)  # the first step also computes the audio's text
        with FlopCounterMode(display=False) as counter:
            forward.velocities(latent, sigma)
    config = pipeline.model.config
    assert step_flops(config, GRID, AUDIO, passes, perturbed, TEXT) == counter.get_total_flops()


def test_the_real_model_needs_what_its_weights_say() -> None:
    """One unguided step of the 22B model: close to 2 FLOP per weight of the video's blocks and token."""
    sections = {"transformer": miniature.REAL_TRANSFORMER, "vae": miniature.VIDEO_VAE, "audio_vae": miniature.AUDIO_VAE}
    config = NEWEST.config_of("2.3.0", sections)
    grid = LatentGrid.of_video(97, 512, 768, NEWEST.latents)
    flops = step_flops(config, grid, 101, frozenset({Pass.POSITIVE}))
    video_weights = 48 * (16 * 4096**2 + 4 * 2048 * 4096)
    assert 1.0 < flops / (2 * video_weights * grid.tokens) < 1.25
