"""Settings of the model's files, device and loading, shared by `generate`, `plan` and `serve`.

A field is a flag, an environment variable (`LTX_A2V_…`), a default and a help text. No torch is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidInput, InvalidMode, InvalidModel, InvalidRequest, did_you_mean, named
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.marks.marking import PROVIDER, Marking
from ltx_a2v.request import Quality
from ltx_a2v.settings.base import Settings
from ltx_a2v.settings.defaults import (
    MAX_DISTILLED_LORA_STRENGTH,
    QUANTIZATIONS,
    TEXT_ENCODER_QUANTIZATIONS,
    VRAM_HEADROOM,
)
from ltx_a2v.settings.loading import PromptEnhancer, StyleLora
from ltx_a2v.settings.units import parse_blocks, parse_bytes
from ltx_a2v.versions import NEWEST

QUANTIZATION_MODES = f"{', '.join(QUANTIZATIONS[:-1])} or {QUANTIZATIONS[-1]}"
MODES = ("auto", "file", "none", *QUANTIZATIONS)
DEVICE = re.compile(r"cpu(:\d+)?|cuda(:\d+)?")
TEXT_ENCODER_MODES = "int4 (what they were trained for) or bnb-nf4"


def _option(default: Any, metavar: str, description: str) -> Any:
    return Field(default, description=description, json_schema_extra={"metavar": metavar})


class ModelSettings(Settings):
    """The files, the device and the way of loading."""

    model_dir: Path | None = Field(None, description="Folder in which the files below are found by name.")
    checkpoint_path: Path | None = Field(None, description=NEWEST.files.checkpoint)
    distilled_lora_path: Path | None = Field(None, description=NEWEST.files.distilled_lora)
    distilled_checkpoint: bool = Field(
        False,
        description="The checkpoint itself is distilled, which its file does not tell: it needs no distilled LoRA, and "
        "makes every video in quality fast.",
    )
    spatial_upsampler_path: Path | None = Field(None, description=NEWEST.files.spatial_upsampler)
    gemma_root: Path | None = Field(None, description=f"Folder {NEWEST.files.gemma}.")

    device: str | None = _option(None, "DEVICE", "cuda, cuda:1 or cpu; default: a GPU where there is one.")
    gpus_per_clip: int = Field(
        1,
        ge=1,
        description="How many GPUs make each video together, from --device on, each with the VRAM budget: at most as "
        "many as the video has passes, 4 by default.",
    )
    dtype: Literal["bfloat16", "float32"] | None = Field(
        None, description="What to compute in; default: bfloat16 on a GPU, float32 on the CPU."
    )
    vram_budget: str = _option("auto", "BUDGET", "12GiB, 60%, auto (what is free now) or unlimited.")
    vram_headroom: str = _option(f"{VRAM_HEADROOM // 2**30}GiB", "BYTES", "What auto leaves to others.")
    host_memory: str = _option(
        "auto",
        "BYTES",
        "Most host memory for copies of weights that are streamed, as 16GiB; 0 streams from the file. Default: four "
        "fifths of what is available.",
    )
    transformer_quantization: str = _option(
        "auto",
        "MODE",
        "How the transformer's weights are stored and multiplied: auto (keep the checkpoint's own format where "
        "everything then stays on the GPU, else int8), file (keep the checkpoint's own format), none, "
        f"{QUANTIZATION_MODES}.",
    )
    text_encoder_quantization: str | None = _option(
        None,
        "MODE",
        f"How the text encoder's weights are stored: none, {TEXT_ENCODER_MODES}; default: as the folder's are.",
    )
    keep_bf16_blocks: str = _option("", "BLOCKS", "Blocks left in bf16, as 0,43-47.")
    lora: Annotated[tuple[str, ...], NoDecode] = _option(
        (), "PATH[:STRENGTH]", "A style LoRA for both stages; repeatable."
    )
    distilled_lora_strength: float = Field(
        1.0,
        ge=0,
        le=MAX_DISTILLED_LORA_STRENGTH,
        allow_inf_nan=False,
        description=f"Strength of the distilled LoRA, from 0 to {MAX_DISTILLED_LORA_STRENGTH:g}.",
    )
    prompt_enhancer_url: str | None = Field(
        None,
        description="OpenAI-compatible endpoint that writes prompts out, as http://127.0.0.1:11434/v1; its key, if it "
        "needs one, in LTX_A2V_PROMPT_ENHANCER_KEY. Gets the prompt, nothing else.",
    )
    prompt_enhancer_model: str | None = Field(None, description="What that endpoint calls its model.")
    prompt_cache: bool = Field(True, description="Encode every prompt again, and keep nothing of it on disk.")
    cuda_graphs: bool = Field(True, description="Issue every kernel of a step one by one: slower on most machines.")
    exact_passes: bool = Field(False, description="Compute every guidance pass on its own: slower, to compare.")

    marks: bool = Field(
        True,
        description="Leave out all marks that say that a video was made by AI. Only where nobody is to see the "
        "videos, or whoever publishes them marks them otherwise.",
    )
    mark_provider: str = Field(PROVIDER, description="Who provides the videos, for their marks.")
    c2pa_cert: Path | None = Field(
        None,
        description="Certificate to sign videos with, a PEM chain; default: one that is made once for this "
        "installation. With --c2pa-key.",
    )
    c2pa_key: Path | None = Field(None, description="Its private key, PEM without a password.")
    reproducible: bool = Field(
        False,
        description="Same request, same bytes: marks without signature and time. For comparing files.",
    )

    @field_validator(
        "model_dir",
        "checkpoint_path",
        "distilled_lora_path",
        "spatial_upsampler_path",
        "gemma_root",
        "c2pa_cert",
        "c2pa_key",
    )
    @classmethod
    def _a_place(cls, path: Path | None) -> Path | None:
        """An empty text, as from an empty environment variable, is no path and not the current folder."""
        return None if path in (None, Path()) else path.expanduser()

    @field_validator("lora", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        """The environment variable holds them with commas between."""
        return given.split(",") if isinstance(given, str) else given

    @property
    def model_paths(self) -> ModelPaths:
        """Raises `InvalidModel` where files are missing."""
        given = {
            "checkpoint": self.checkpoint_path,
            "distilled_lora": self.distilled_lora_path,
            "spatial_upsampler": self.spatial_upsampler_path,
            "gemma_root": self.gemma_root,
        }
        if self.distilled_checkpoint:
            del given["distilled_lora"]
        known: dict[str, Any] = {name: path for name, path in given.items() if path is not None}
        if len(known) == len(given):
            return ModelPaths(**{"distilled_lora": None, **known})
        if self.model_dir is None:
            raise InvalidModel(
                f"No model files were given: use {named('model_dir')} (or LTX_A2V_MODEL_DIR), or "
                f"{named('checkpoint_path')}, {named('distilled_lora_path')}, {named('spatial_upsampler_path')} and "
                f"{named('gemma_root')}; `ltx-a2v get` says where to download them, `ltx-a2v demo` needs none."
            )
        return ModelPaths.discover(self.model_dir, **known, distilled_checkpoint=self.distilled_checkpoint)

    @property
    def default_quality(self) -> Quality:
        """Of requests that name none."""
        return "fast" if self.distilled_checkpoint else "standard"

    @property
    def loras(self) -> tuple[StyleLora, ...]:
        """Raises `InvalidRequest`."""
        return tuple(StyleLora.parse(given) for given in self.lora)

    @property
    def prompt_enhancer(self) -> PromptEnhancer | None:
        """Raises `InvalidRequest`."""
        if self.prompt_enhancer_url is None:
            return None
        if self.prompt_enhancer_model is None:
            reason = f"needs the model's name: give {named('prompt_enhancer_model')}, which local servers may ignore"
            raise InvalidRequest("prompt_enhancer_url", self.prompt_enhancer_url, reason)
        return PromptEnhancer(self.prompt_enhancer_url, self.prompt_enhancer_model)

    @property
    def marking(self) -> Marking:
        return Marking(self.marks, self.reproducible, self.mark_provider, self.c2pa_cert, self.c2pa_key)

    @property
    def budget(self) -> Budget:
        """Raises `InvalidRequest`."""
        return Budget(self.vram_budget, parse_bytes(self.vram_headroom, "vram_headroom"))

    @property
    def host_limit(self) -> int | None:
        """Most bytes of host memory for copies of weights, or None for what is available. Raises `InvalidRequest`."""
        if self.host_memory == "auto":
            return None
        return 0 if self.host_memory == "0" else parse_bytes(self.host_memory, "host_memory", ", 0, auto")

    def _check_no_distilled_lora(self) -> None:
        given = {
            "distilled_lora_path": self.distilled_lora_path,
            "distilled_lora_strength": self.distilled_lora_strength,
        }
        for name, value in given.items():
            if value != type(self).model_fields[name].default:
                reason = f"and {named('distilled_checkpoint')} exclude each other: leave one of them out"
                raise InvalidRequest(name, str(value), reason)

    def check(self) -> None:
        """Raises `InvalidInput` where a value cannot be read, two exclude each other, or files are missing. Nothing
        heavy is imported."""
        if self.distilled_checkpoint:
            self._check_no_distilled_lora()
        _ = self.budget, self.host_limit, self.loras, self.prompt_enhancer, parse_blocks(self.keep_bf16_blocks)
        check_name("quantization mode", self.transformer_quantization, MODES)
        if self.text_encoder_quantization is not None:
            check_name("text encoder quantization", self.text_encoder_quantization, TEXT_ENCODER_QUANTIZATIONS)
        if self.device is not None and not DEVICE.fullmatch(self.device):
            raise InvalidInput(f"{named('device')} {self.device!r} is no device; use cuda, cuda:1 or cpu.")
        if self.marks:
            self.marking.check()
        _ = self.model_paths


def check_name(what: str, given: str, known: Sequence[str]) -> None:
    """Raises `InvalidMode`."""
    if given not in known:
        hint = did_you_mean(given, known) or f"choose one of {', '.join(known)}."
        raise InvalidMode(f"There is no {what} {given!r}: {hint}")
