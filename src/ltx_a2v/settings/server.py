"""Settings of the server: each field is a flag of `serve`, an environment variable, a default and a help text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidInput, InvalidModel, InvalidRequest, named
from ltx_a2v.puppet import puppet_paths
from ltx_a2v.settings.defaults import MAX_IMAGE_PIXELS, MAX_SECONDS
from ltx_a2v.settings.devices import WorkerDevices, groups_of, on_one
from ltx_a2v.settings.model import ModelSettings
from ltx_a2v.settings.units import NEVER, parse_bytes, parse_duration

MIB = 2**20
MIN_LEASE_SECONDS = 2.0
MODEL_FILES = ("checkpoint_path", "distilled_lora_path", "spatial_upsampler_path", "gemma_root")


class ServerSettings(ModelSettings):
    """The settings of `serve`, from its flags first and the environment second."""

    demo: bool = Field(False, description="Serve the miniature model that ships with ltx-a2v; needs no model files.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8892, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(None, description="Key that clients must send; better given as LTX_A2V_API_KEY.")
    insecure: bool = Field(False, description="Allow an address that others can reach without an API key.")
    allowed_hosts: str = Field("", description="More host names (comma-separated) that requests may be addressed to.")

    webhook_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Place that a request's webhook_url may lead to, as hooks.example.org (ports 80 and 443) or "
        "10.0.0.5:9000; repeatable. Default: none; then no request may have a webhook.",
        json_schema_extra={"metavar": "HOST[:PORT]"},
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret that webhooks are signed with: whsec_ and 24 to 64 random bytes in base64; better given as "
        "LTX_A2V_WEBHOOK_SECRET. Default: made once, in --state-dir.",
    )
    devices: str | None = Field(
        None,
        description="Instead of --device: several, as cuda:0,cuda:1, or all (GPUs). Each, or each --gpus-per-clip of "
        "them, has a worker; the workers share one queue.",
        json_schema_extra={"metavar": "DEVICES"},
    )

    model_name: str | None = Field(None, description="Name in /v1/models; default: the checkpoint's file name.")

    output_dir: Path = Field(Path("outputs"), description="Folder for finished videos, one folder per job.")
    state_dir: Path | None = Field(None, description="Folder for jobs and uploads; default: .state in --output-dir.")
    database: SecretStr | None = Field(
        None,
        description="postgresql://user@host/name: records that several servers share; better given as "
        "LTX_A2V_DATABASE. Default: a file of SQLite in --state-dir.",
    )
    lease: str = Field(
        "15s", description="With --database: how long a server may be silent before its job goes back to the queue."
    )
    storage: str | None = Field(
        None,
        description="s3://bucket/prefix: where uploads and finished videos are kept; default: --state-dir and "
        "--output-dir.",
    )
    input_dir: Path | None = Field(
        None, description="Folder below which requests and assistants may name files; default: none."
    )

    keep_alive: str = Field("5m", description="How long the model stays loaded after the last job; 0: not, -1: always.")
    cold_start: bool = Field(False, description="Same as --keep-alive 0.")
    persistent: bool = Field(False, description="Same as --keep-alive -1.")
    standby: bool = Field(True, description="Don't keep a warm spare process; the first job then starts slower.")
    vram_wait: str = Field("60s", description="How long a job waits for device memory before it fails.")
    previews: bool = Field(True, description="Show no rough pictures of a video while it is made.")
    cancel_grace: str = Field("10s", description="How long a cancelled job may take to stop before it is killed.")
    worker_silence: str = Field(
        "2m", description="How long the worker may give no sign of life before it is killed and its job tried again."
    )
    step_timeout: str = Field(
        "30m", description="Longest time of one step, or of a phase without steps, before the same happens; 0: any."
    )

    max_queue: int = Field(32, ge=1, description="Jobs that may wait.")
    keep_outputs: str = Field("7d / 50GB", description="Age and total size up to which outputs stay; 'all' keeps them.")
    max_image_mb: int = Field(20, ge=1, description="Largest picture, in MiB.")
    max_audio_mb: int = Field(100, ge=1, description="Largest audio file, in MiB.")
    max_json_mb: int = Field(32, ge=1, description="Largest JSON body or text field, in MiB.")
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1, description="Most pixels of a picture.")
    max_audio_seconds: float = Field(3600, gt=0, description="Longest audio, in seconds.")
    max_pixels: int = Field(1920 * 1088, ge=4096, description="Most pixels of a video's frame.")
    max_seconds: float = Field(600, gt=0, le=MAX_SECONDS, description="Longest video, in seconds.")
    max_connections: int = Field(256, ge=8, description="Most connections at a time; half of them may wait for a job.")
    head_timeout: str = Field("10s", description="Longest time that the head of a request may take.")
    body_timeout: str = Field("30s", description="Longest pause of a client that sends a body.")
    upload_timeout: str = Field("10m", description="Longest time that a whole body may take.")

    log_format: Literal["text", "json"] = Field("text", description="One line per event for people, or for machines.")
    engine: str = Field(
        "ltx_a2v.session:open_pipeline",
        description="What the worker opens the pipeline with: module:function of `ModelSettings`.",
        json_schema_extra={"flag": False},
    )

    @field_validator(
        "keep_alive",
        "vram_wait",
        "cancel_grace",
        "worker_silence",
        "step_timeout",
        "head_timeout",
        "body_timeout",
        "upload_timeout",
        "lease",
    )
    @classmethod
    def _spans_of_time(cls, text: str, info: ValidationInfo) -> str:
        parse_duration(text, info.field_name or "")
        return text

    @field_validator("webhook_allow", mode="before")
    @classmethod
    def _several_places(cls, given: Any) -> Any:
        """The environment variable holds them with commas between."""
        return given.split(",") if isinstance(given, str) else given

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
        return NEVER if self.persistent else parse_duration(self.keep_alive, "keep_alive")

    @cached_property
    def workers(self) -> tuple[WorkerDevices, ...]:
        """The devices of each worker. Raises `InvalidInput`."""
        if self.devices is None:
            return on_one(self.device, self.gpus_per_clip)
        if self.device is not None:
            raise InvalidInput(f"{named('device')} and {named('devices')} exclude each other: give one of them.")
        return groups_of(self.devices, self.gpus_per_clip)

    def on(self, devices: WorkerDevices) -> ServerSettings:
        """The settings of the worker on these devices."""
        return self.model_copy(update={"device": devices.setting, "devices": None})

    @cached_property
    def found_paths(self) -> ModelPaths:
        """Looked for once."""
        return self.model_paths

    @property
    def model_paths(self) -> ModelPaths:
        """Raises `InvalidModel` where files are missing."""
        return puppet_paths() if self.demo else super().model_paths

    @property
    def model_id(self) -> str:
        return self.model_name or self.found_paths.checkpoint.stem

    @cached_property
    def model_bytes(self) -> int:
        """Size of the model's files."""
        paths = self.found_paths
        single = (paths.checkpoint, paths.distilled_lora, paths.spatial_upsampler)
        return sum(path.stat().st_size for path in (*filter(None, single), *paths.gemma_root.glob("*.safetensors")))

    def check(self) -> None:
        """Raises `InvalidInput` where the server cannot start with these settings."""
        if self.cold_start and self.persistent:
            raise InvalidInput(f"{named('cold_start')} and {named('persistent')} exclude each other: give one of them.")
        if self.demo:
            self._check_no_model_is_given()
        for name in MODEL_FILES:
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise InvalidModel(f"{named(name)} {path} does not exist.")
        if self.input_dir is not None and not self.input_dir.is_dir():
            raise InvalidInput(f"{named('input_dir')} {self.input_dir} is not a folder.")
        if parse_duration(self.lease) < MIN_LEASE_SECONDS:
            raise InvalidRequest("lease", self.lease, f"is too short; use {MIN_LEASE_SECONDS:g}s or more")
        if self.database is not None and self.webhook_allow and self.webhook_secret is None:
            raise InvalidInput(
                f"Servers that share {named('database')} sign webhooks with one secret: give each the same "
                f"{named('webhook_secret')} (or LTX_A2V_WEBHOOK_SECRET)."
            )
        super().check()
        _ = self.workers

    def _check_no_model_is_given(self) -> None:
        for name in ("model_dir", *MODEL_FILES):
            if getattr(self, name) is not None:
                raise InvalidInput(
                    f"{named('demo')} serves its own model, and {named(name)} (or LTX_A2V_{name.upper()}) gives "
                    "another: leave one of them out."
                )
        if self.distilled_checkpoint:
            raise InvalidInput(
                f"{named('demo')} serves its own model, which is no distilled one: leave "
                f"{named('distilled_checkpoint')} out."
            )

    def for_worker(self) -> dict[str, Any]:
        """The part that the worker needs, as JSON: `ModelSettings` with the files that were found, and limits."""
        paths = self.found_paths
        found = {
            "checkpoint_path": paths.checkpoint,
            "distilled_lora_path": paths.distilled_lora,
            "spatial_upsampler_path": paths.spatial_upsampler,
            "gemma_root": paths.gemma_root,
        }
        names = {*ModelSettings.model_fields, "max_image_pixels", "max_audio_seconds", "previews"}
        files = {name: None if path is None else str(path) for name, path in found.items()}
        return {**self.model_dump(mode="json", include=names), **files}


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
                total = parse_bytes(part, "keep_outputs")
            else:
                seconds = parse_duration(part, "keep_outputs")
        return cls(seconds, total)
