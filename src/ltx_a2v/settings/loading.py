"""The options of loading a model, as one value. No torch is imported here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.marks.marking import Marking
from ltx_a2v.settings.defaults import MAX_DISTILLED_LORA_STRENGTH, at_home

if TYPE_CHECKING:
    from ltx_a2v.planning.plan import Keep


ENHANCER_KEY = "LTX_A2V_PROMPT_ENHANCER_KEY"
"""The environment variable with the key; there is no flag, since others on the machine can read those."""


@dataclass(frozen=True)
class StyleLora:
    """A LoRA for both stages, in addition to the distilled one."""

    path: Path
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", at_home(Path(self.path)))
        if not math.isfinite(self.strength):
            raise InvalidRequest("lora", str(self.path), f"has the strength {self.strength}; it must be finite")

    @classmethod
    def parse(cls, given: str) -> StyleLora:
        """From `PATH` or `PATH:STRENGTH`. Raises `InvalidRequest`."""
        path, separator, strength = given.rpartition(":")
        if not separator or _exists(given):
            return cls(Path(given))
        try:
            return cls(Path(path), float(strength))
        except ValueError:
            raise InvalidRequest("lora", given, f"has no strength {strength!r}; write PATH or PATH:0.8") from None


def _exists(given: str) -> bool:
    try:
        return Path(given).exists()
    except OSError:  # too long for a name
        return False


@dataclass(frozen=True)
class PromptEnhancer:
    """A language model that writes prompts out, behind an OpenAI-compatible endpoint."""

    url: str
    """Up to and with the version, as `http://127.0.0.1:11434/v1`."""
    model: str
    """What the endpoint calls it."""

    def __post_init__(self) -> None:
        """Raises `InvalidRequest` for a URL that is no server's, or contains a password."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise InvalidRequest("prompt_enhancer_url", self.url, "is no address; write http://127.0.0.1:11434/v1")
        if parts.username or parts.password:
            raise InvalidRequest("prompt_enhancer_url", reason=f"holds a password: give the key as {ENHANCER_KEY}")


@dataclass(frozen=True, repr=False)
class LoadOptions:
    """The options of `A2VPipeline.open`, except files, device and dtype."""

    transformer_quantization: str | None = "auto"
    """A mode of `quantization.MODES`, "auto" (on a GPU int8 where the file's own format would not stay resident), or
    None or "file" for the file's own format."""
    keep_bf16_blocks: frozenset[int] = frozenset()
    text_encoder_quantization: str | None = None
    """A mode of `quantization.TEXT_ENCODER_MODES`; None takes the files as they are."""
    prompt_cache: bool = True
    """Cache encoded prompts on disk; a cached prompt needs no text encoder."""
    loras: tuple[StyleLora, ...] = ()
    distilled_lora_strength: float = 1.0
    """What the distilled LoRA's product is multiplied with, in either stage that applies it; from 0 to 2."""
    exact_passes: bool = False
    """One GEMM per pass: equal to separate forwards, bit for bit."""
    cuda_graphs: bool = True
    """Capture the transformer's blocks as CUDA graphs on a GPU, and replay them; the bits are the same."""
    budget: Budget = field(default_factory=Budget)
    host_memory: int | None = None
    """Most bytes of weights that are copied to host memory; None: what is available, less a share for others."""
    keep: Keep = "nothing"
    """Where weights may stay between requests."""
    read_ahead: bool | None = None
    """Read weights of later phases into host memory while the text encoder runs; None: on a GPU."""
    prompt_enhancer: PromptEnhancer | None = None
    """What enhances the prompts of requests that ask for it."""
    marking: Marking = field(default_factory=Marking)
    """How finished videos say that they were made by AI."""

    def __post_init__(self) -> None:
        if not 0 <= self.distilled_lora_strength <= MAX_DISTILLED_LORA_STRENGTH:
            reason = f"is not a strength: it must be from 0 to {MAX_DISTILLED_LORA_STRENGTH:g}"
            raise InvalidRequest("distilled_lora_strength", self.distilled_lora_strength, reason)

    def __repr__(self) -> str:
        """Only the fields that differ from their defaults."""
        defaults = type(self).__dataclass_fields__
        given = {name: getattr(self, name) for name in defaults}
        usual = {name: LoadOptions.__dict__.get(name) for name in defaults} | {"budget": Budget(), "marking": Marking()}
        shown = [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
        return f"LoadOptions({', '.join(shown)})"
