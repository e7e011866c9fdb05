"""Every setting of the server, once: flag of `serve`, environment variable (`LTX_A2V_…`), default and help text."""

from __future__ import annotations

import argparse
import types
import typing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidInput, InvalidModel, InvalidRequest
from ltx_a2v.serving.durations import NEVER, parse_bytes, parse_duration
from ltx_a2v.settings import LTX_2_3, MAX_AUTO_FRAMES, MAX_IMAGE_PIXELS, Settings

MIB = 2**20

PRESETS: dict[str, dict[str, int]] = {
    "draft": {"long_side": 512, "short_side": 320, "num_inference_steps": 15},
    "standard": {
        "long_side": LTX_2_3.width,
        "short_side": LTX_2_3.height,
        "num_inference_steps": LTX_2_3.num_inference_steps,
    },
    "large": {"long_side": 1280, "short_side": 768, "num_inference_steps": LTX_2_3.num_inference_steps},
}
"""What the page offers."""


class ServerSettings(Settings):
    """What `serve` was told, by its flags first and the environment second."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8892, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(None, description="Key that clients must send; better given as LTX_A2V_API_KEY.")
    insecure: bool = Field(False, description="Allow an address that others can reach without an API key.")
    allowed_hosts: str = Field("", description="More host names (comma-separated) that requests may be addressed to.")

    checkpoint_path: Path | None = Field(None, description="The model: ltx-2.3-….safetensors.")
    distilled_lora_path: Path | None = Field(None, description="The distilled LoRA of stage 2.")
    spatial_upsampler_path: Path | None = Field(None, description="The x2 latent upsampler.")
    gemma_root: Path | None = Field(None, description="Folder of the Gemma 3 text encoder.")
    model_dir: Path | None = Field(None, description="Folder in which the model files are found by what they hold.")
    model_name: str | None = Field(None, description="Name in /v1/models; default: the checkpoint's file name.")
    device: str = Field("cuda", description="Device to work on: cuda, cuda:1, cpu.")
    transformer_quantization: str | None = Field(None, description="How the transformer's weights are stored.")
    text_encoder_quantization: str | None = Field(None, description="How the text encoder's weights are stored.")
    vram_budget: str | None = Field(
        None, description="Most device memory to use, such as 12GiB; default: what is free."
    )

    output_dir: Path = Field(Path("outputs"), description="Folder for finished videos, one folder per job.")
    state_dir: Path | None = Field(None, description="Folder for jobs and uploads; default: .state in --output-dir.")
    input_dir: Path | None = Field(None, description="Folder below which requests may name files; default: none.")

    keep_alive: str = Field("5m", description="How long the model stays loaded after the last job; 0: not, -1: always.")
    cold_start: bool = Field(False, description="Same as --keep-alive 0.")
    persistent: bool = Field(False, description="Same as --keep-alive -1.")
    standby: bool = Field(True, description="Keep no spare worker with its imports done.")
    vram_wait: str = Field("60s", description="How long a job waits for device memory before it fails.")
    cancel_grace: str = Field("10s", description="How long a cancelled job may take to stop before it is killed.")

    max_queue: int = Field(32, ge=1, description="Jobs that may wait.")
    keep_outputs: str = Field("7d / 50GB", description="Age and total size up to which outputs stay; 'all' keeps them.")
    max_image_mb: int = Field(20, ge=1, description="Largest picture, in MiB.")
    max_audio_mb: int = Field(100, ge=1, description="Largest audio file, in MiB.")
    max_json_mb: int = Field(32, ge=1, description="Largest JSON body or text field, in MiB.")
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1, description="Most pixels of a picture.")
    max_audio_seconds: float = Field(3600, gt=0, description="Longest audio, in seconds.")
    max_pixels: int = Field(1920 * 1088, ge=4096, description="Most pixels of a video's frame.")
    max_frames: int = Field(MAX_AUTO_FRAMES, ge=9, description="Most frames of a video.")
    body_timeout: str = Field("30s", description="Longest pause of a client that sends a body.")

    log_format: Literal["text", "json"] = Field("text", description="One line per event for people, or for machines.")
    engine: str = Field(
        "ltx_a2v.serving.engine:open_pipeline",
        description="What the worker opens the pipeline with.",
        json_schema_extra={"flag": False},
    )

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            complaint = error.errors()[0]
            flag = _flag(str(complaint["loc"][0])) if complaint["loc"] else "The settings"
            message = complaint["msg"].removeprefix("Value error, ")
            raise InvalidRequest(f"{flag} {complaint['input']!r}: {message}.") from None

    @field_validator("keep_alive", "vram_wait", "cancel_grace", "body_timeout")
    @classmethod
    def _spans_of_time(cls, text: str) -> str:
        parse_duration(text)
        return text

    @field_validator("keep_outputs")
    @classmethod
    def _bounds(cls, text: str) -> str:
        KeepOutputs.parse(text)
        return text

    @property
    def state(self) -> Path:
        return self.state_dir or self.output_dir / ".state"

    @property
    def keep_alive_seconds(self) -> float:
        if self.cold_start:
            return 0.0
        return NEVER if self.persistent else parse_duration(self.keep_alive)

    @cached_property
    def model_paths(self) -> ModelPaths | None:
        """Raises `InvalidModel` where files are missing; None only for an engine that needs none."""
        given = {
            "checkpoint": self.checkpoint_path,
            "distilled_lora": self.distilled_lora_path,
            "spatial_upsampler": self.spatial_upsampler_path,
            "gemma_root": self.gemma_root,
        }
        if all(given.values()):
            return ModelPaths(**{name: path for name, path in given.items() if path is not None})
        if self.model_dir is not None:
            return ModelPaths.discover(self.model_dir, **given)
        if self.engine != ServerSettings.model_fields["engine"].default:
            return None
        raise InvalidModel(
            "No model files were given: use --model-dir (or LTX_A2V_MODEL_DIR), or --checkpoint-path, "
            "--distilled-lora-path, --spatial-upsampler-path and --gemma-root."
        )

    @property
    def model_id(self) -> str:
        return self.model_name or (self.model_paths.checkpoint.stem if self.model_paths else "ltx-a2v")

    @cached_property
    def model_bytes(self) -> int:
        """Size of the model's files."""
        if self.model_paths is None:
            return 0
        folder = self.model_paths.gemma_root.glob("*.safetensors")
        single = (self.model_paths.checkpoint, self.model_paths.distilled_lora, self.model_paths.spatial_upsampler)
        return sum(path.stat().st_size for path in (*single, *folder))

    def check(self) -> None:
        """Raises `InvalidInput` where the server cannot start with these settings."""
        if self.cold_start and self.persistent:
            raise InvalidInput("--cold-start and --persistent exclude each other: give one of them.")
        for name in ("checkpoint_path", "distilled_lora_path", "spatial_upsampler_path", "gemma_root"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise InvalidModel(f"{_flag(name)} {path} does not exist.")
        if self.input_dir is not None and not self.input_dir.is_dir():
            raise InvalidInput(f"--input-dir {self.input_dir} is not a folder.")
        _ = self.model_paths  # found, or told what is missing

    def for_worker(self) -> dict[str, Any]:
        """The part that the worker needs, as JSON."""
        names = {
            "device",
            "transformer_quantization",
            "text_encoder_quantization",
            "vram_budget",
            "max_image_pixels",
            "max_audio_seconds",
        }
        paths = asdict(self.model_paths) if self.model_paths else {}
        return {**self.model_dump(mode="json", include=names), "paths": {name: str(p) for name, p in paths.items()}}


@dataclass(frozen=True)
class KeepOutputs:
    """Bounds on what is kept; `NEVER` and None mean no bound."""

    seconds: float = NEVER
    total_bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> KeepOutputs:
        """From "7d / 50GB", "7d", "50GB" or "all"."""
        if text.strip() == "all":
            return cls()
        seconds, total = NEVER, None
        for part in text.split("/"):
            if part.strip().upper().endswith("B"):
                total = parse_bytes(part)
            else:
                seconds = parse_duration(part)
        return cls(seconds, total)


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per field. A flag that is not given is absent from the namespace, so that the environment speaks."""
    for name, field in ServerSettings.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("flag") is False:
            continue
        parser.add_argument(_flag(name), dest=name, default=argparse.SUPPRESS, **_argument(field))


def settings_from(arguments: argparse.Namespace) -> ServerSettings:
    given = {name: value for name, value in vars(arguments).items() if name in ServerSettings.model_fields}
    return ServerSettings(**given)


def _flag(name: str) -> str:
    """`--no-standby` for a switch that is on by default."""
    field = ServerSettings.model_fields[name]
    return ("--no-" if field.default is True else "--") + name.replace("_", "-")


def _argument(field: FieldInfo) -> dict[str, Any]:
    text = (field.description or "").replace("%", "%%")
    if field.annotation is bool:
        return {"action": "store_false" if field.default is True else "store_true", "help": text}
    if field.default not in (None, ""):
        text += f" Default: {field.default}."
    choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else None
    return {"help": text, "choices": choices, "metavar": None if choices else _metavar(field.annotation)}


def _metavar(annotation: Any) -> str:
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if Path in kinds:
        return "PATH"
    return "N" if kinds[0] in (int, float) else "TEXT"
