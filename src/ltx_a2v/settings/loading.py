"""How a model is loaded: one value instead of a parameter per layer of the program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ltx_a2v.hardware.budget import Budget
from ltx_a2v.planning.plan import Keep


@dataclass(frozen=True)
class StyleLora:
    """A LoRA for both stages, besides the distilled one of stage 2."""

    path: Path
    strength: float = 1.0


@dataclass(frozen=True)
class LoadOptions:
    transformer_quantization: str | None = None
    """A mode of `quantization.MODES`; None takes the file as it is."""
    keep_bf16_blocks: frozenset[int] = frozenset()
    text_encoder_quantization: str = "none"
    """One of `quantization.TEXT_ENCODER_MODES`."""
    prompt_cache: bool = True
    """Keep encoded prompts on disk: one that was seen before needs no text encoder."""
    loras: tuple[StyleLora, ...] = ()
    exact_passes: bool = False
    """One GEMM per pass, bitwise what separate forwards give."""
    budget: Budget = field(default_factory=Budget)
    host_memory: int | None = None
    """Most bytes of weights that are copied to host memory; None: what is available, less a share for others."""
    keep: Keep = "nothing"
    """Where weights may stay between requests."""
