"""What each phase of a request takes besides weights, measured by running it on `meta`.

The computations are the real ones, on tensors without memory, under a ledger that counts what would be alive. Only
what `meta` cannot run is estimated: Gemma, whose masks look at values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import UNGUIDED, passes_of
from ltx_a2v.diffusion.latents import LatentGrid, start_stage
from ltx_a2v.diffusion.sampler import denoise
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.recipe import Recipe, split
from ltx_a2v.networks import audio_vae, text
from ltx_a2v.networks.video_vae import Tiling, decode_pieces, levels
from ltx_a2v.planning.plan import PhaseNeed, Sizes
from ltx_a2v.request import Guidance
from ltx_a2v.residency.ledger import Ledger

META = torch.device("meta")
SAMPLED_BLOCKS = 3
"""All blocks take the same and give it back, but for the audio's text keys and values, which stay."""
WORKSPACES = 128 * 2**20
"""Bytes allowed for what cuBLAS and cuDNN keep on a GPU; an allowance, of which an H100 used 33 MiB between phases."""

CONVOLUTION_WORKSPACE = 820 * 2**20
"""Bytes that cuDNN takes besides while it decodes: what an H100 took above the prediction at 768x512 (0.78 GiB)."""


@dataclass(frozen=True)
class Shape:
    """What the memory of a request depends on."""

    width: int
    height: int
    num_frames: int
    frame_rate: float
    guidance: Guidance
    has_image: bool

    def grid(self, scale: int) -> LatentGrid:
        return LatentGrid.of_video(self.num_frames, self.height // scale, self.width // scale)

    @property
    def audio_tokens(self) -> int:
        return audio_vae.latent_steps(self.num_frames / self.frame_rate)


def sizes_of(recipe: Recipe, module: nn.Module) -> Sizes:
    rest, parts, _ = split(recipe, module)
    return Sizes(rest.part.layout.nbytes, tuple(part.part.layout.nbytes for part in parts), recipe.reading(module))


@torch.inference_mode()
def measure_needs(
    files: ModelFiles,
    modules: Mapping[str, Any],
    shape: Shape,
    dtype: torch.dtype,
    workspaces: int,
) -> list[PhaseNeed]:
    """The phases in order; `modules`, on `meta`, are the pipeline's networks by name."""
    kept = _kept_between_phases(files, shape, dtype)

    def need(name: str, networks: tuple[str, ...], compute: Callable[[], object]) -> PhaseNeed:
        with Ledger() as ledger:
            made = compute()
        del made
        return PhaseNeed(name, networks, ledger.peak + kept + workspaces)

    def connect() -> object:
        states = text.hidden_state_count(files.gemma)
        hidden = _empty(1, text.MAX_TOKENS, files.gemma.config["hidden_size"], states, dtype=dtype)
        mask = torch.ones(1, text.MAX_TOKENS, device=META, dtype=torch.int64)
        others = torch.empty_like(hidden)
        return others, modules["connectors"](hidden, mask)

    def encode_images() -> object:
        if not shape.has_image:
            return None
        return [
            modules["video_encoder"](_empty(1, 3, 1, shape.height // scale, shape.width // scale, dtype=dtype))
            for scale in (2, 1)
        ]

    def encode_audio() -> object:
        samples = math.ceil(shape.num_frames / shape.frame_rate * files.config.sample_rate)
        mel_frames = -(-samples // files.config.hop_length) + 1
        return modules["audio_encoder"](_empty(1, 2, mel_frames, files.config.mel_bins, dtype=dtype))

    def upsample() -> object:
        grid = shape.grid(2)
        return modules["upsampler"](_empty(1, 128, grid.frames, grid.height, grid.width, dtype=dtype))

    def decode() -> object:
        grid = shape.grid(1)
        latent = _empty(1, 128, grid.frames, grid.height, grid.width, dtype=dtype)
        for piece in decode_pieces(modules["video_decoder"], latent, Tiling()):
            levels(piece[0, :, 0])
            del piece
        return latent

    def stage(scale: int, guidance: Guidance, adapters: tuple[str, ...]) -> Tensor:
        return _run_stage(modules, files, shape, scale, guidance, adapters, dtype)

    def with_convolutions(one: PhaseNeed) -> PhaseNeed:
        return replace(one, activations=one.activations + (CONVOLUTION_WORKSPACE if workspaces else 0))

    def with_cache(one: PhaseNeed) -> PhaseNeed:
        """Keys and values of the audio's text, kept for every block."""
        blocks = max(files.config.num_layers - SAMPLED_BLOCKS, 0)
        kept = blocks * 2 * text.MAX_TOKENS * files.config.widths[1] * dtype.itemsize
        return replace(one, activations=one.activations + kept)

    styles = tuple(name for name in modules if name.startswith("lora "))
    return [
        PhaseNeed("text_encoder", ("text_encoder",), _gemma_activations(files, dtype) + workspaces),
        need("connectors", ("connectors",), connect),
        need("encode_audio", ("audio_encoder",), encode_audio),
        need("encode_image", ("video_encoder",), encode_images),
        with_cache(need("stage_1", ("transformer", *styles), lambda: stage(2, shape.guidance, styles))),
        need("upsample", ("transformer", "upsampler"), upsample),
        with_cache(
            need("stage_2", ("transformer", "distilled", *styles), lambda: stage(1, UNGUIDED, ("distilled", *styles)))
        ),
        with_convolutions(need("decode", ("video_decoder",), decode)),
    ]


def _kept_between_phases(files: ModelFiles, shape: Shape, dtype: torch.dtype) -> int:
    """Bytes of what phases hand on: both contexts, the sound, and of either stage the picture, the start (noisy and
    clean) and the result, once as tokens and once as a picture."""
    contexts = 2 * text.MAX_TOKENS * sum(files.config.widths)
    tokens = shape.audio_tokens + sum(5 * shape.grid(scale).tokens for scale in (2, 1))
    return (contexts + 128 * tokens) * dtype.itemsize


def _run_stage(
    modules: Mapping[str, Any],
    files: ModelFiles,
    shape: Shape,
    scale: int,
    guidance: Guidance,
    adapters: tuple[str, ...],
    dtype: torch.dtype,
) -> Tensor:
    """One step of a stage on `meta`."""
    video_dim, audio_dim = files.config.widths
    grid, audio = shape.grid(scale), _empty(1, shape.audio_tokens, 128, dtype=dtype)
    initial = _empty(1, 128, grid.frames, grid.height, grid.width, dtype=dtype)
    start = start_stage(grid, initial, None, 1.0, 1.0, None, audio)
    contexts = [_empty(1, text.MAX_TOKENS, dim, dtype=dtype) for dim in (video_dim, video_dim, audio_dim)]
    inputs = StageInputs(grid, shape.frame_rate, start.mask, audio, *contexts)
    transformer = modules["transformer"]
    with ExitStack() as stack:
        for name in adapters:
            stack.enter_context(modules[name].attached(transformer))
        sample = transformer.transformer_blocks[:SAMPLED_BLOCKS]
        perturbed = frozenset({1} if guidance.stg_blocks else ())
        forward = StageForward(transformer, inputs, passes_of(guidance), perturbed, lambda: sample)
        (latent,) = denoise(forward, start, torch.tensor([1.0, 0.5]), guidance)
    return latent


def _gemma_activations(files: ModelFiles, dtype: torch.dtype) -> int:
    """All hidden states, their stack and that of the other prompt; a layer's own at its widest, the MLP."""
    config = files.gemma.config
    hidden = text.MAX_TOKENS * config["hidden_size"] * dtype.itemsize
    states = 3 * text.hidden_state_count(files.gemma) * hidden
    mlp = 4 * text.MAX_TOKENS * config["intermediate_size"] * dtype.itemsize
    masks = 2 * 4 * text.MAX_TOKENS**2
    return int(states + mlp + masks + 6 * hidden)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)
