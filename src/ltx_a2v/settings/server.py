"""What the server is told besides its model: flag of `serve`, environment variable, default and help text, once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidInput, InvalidModel
from ltx_a2v.settings.defaults import LTX_2_3, MAX_AUTO_FRAMES, MAX_IMAGE_PIXELS
from ltx_a2v.settings.model import ModelSettings
from ltx_a2v.settings.units import NEVER, parse_bytes, parse_duration

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


class ServerSettings(ModelSettings):
    """What `serve` was told, by its flags first and the environment second."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8892, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(None, description="Key that clients must send; better given as LTX_A2V_API_KEY.")
    insecure: bool = Field(False, description="Allow an address that others can reach without an API key.")
    allowed_hosts: str = Field("", description="More host names (comma-separated) that requests may be addressed to.")

    model_name: str | None = Field(None, description="Name in /v1/models; default: the checkpoint's file name.")

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
        "ltx_a2v.opening:open_pipeline",
        description="What the worker opens the pipeline with: module:function of `ModelSettings`.",
        json_schema_extra={"flag": False},
    )

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
    def found_paths(self) -> ModelPaths:
        """Looked for once."""
        return self.model_paths

    @property
    def model_id(self) -> str:
        return self.model_name or self.found_paths.checkpoint.stem

    @cached_property
    def model_bytes(self) -> int:
        """Size of the model's files."""
        paths = self.found_paths
        single = (paths.checkpoint, paths.distilled_lora, paths.spatial_upsampler)
        return sum(path.stat().st_size for path in (*single, *paths.gemma_root.glob("*.safetensors")))

    def check(self) -> None:
        """Raises `InvalidInput` where the server cannot start with these settings."""
        if self.cold_start and self.persistent:
            raise InvalidInput("--cold-start and --persistent exclude each other: give one of them.")
        for name in ("checkpoint_path", "distilled_lora_path", "spatial_upsampler_path", "gemma_root"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise InvalidModel(f"{self.flag(name)} {path} does not exist.")
        if self.input_dir is not None and not self.input_dir.is_dir():
            raise InvalidInput(f"--input-dir {self.input_dir} is not a folder.")
        _ = self.budget, self.found_paths  # readable and found, or told what is wrong

    def for_worker(self) -> dict[str, Any]:
        """The part that the worker needs, as JSON: `ModelSettings` with the files that were found, and limits."""
        paths = self.found_paths
        found = {
            "checkpoint_path": paths.checkpoint,
            "distilled_lora_path": paths.distilled_lora,
            "spatial_upsampler_path": paths.spatial_upsampler,
            "gemma_root": paths.gemma_root,
        }
        names = {*ModelSettings.model_fields, "max_image_pixels", "max_audio_seconds"}
        return {**self.model_dump(mode="json", include=names), **{name: str(path) for name, path in found.items()}}


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
                total = parse_bytes(part, "--keep-outputs")
            else:
                seconds = parse_duration(part)
        return cls(seconds, total)
