"""The shapes of replies."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class Video(BaseModel):
    """A job, in the shape of OpenAI's `video` with more to it."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: int = Field(ge=0, le=100, description="100 means that the file is saved.")
    created_at: int
    started_at: int | None
    completed_at: int | None = Field(description="When the job ended, however it did.")
    expires_at: int | None = Field(description="When the files are removed.")
    expired: bool
    prompt: str
    size: str = Field(description="'auto' until the picture's shape is known.")
    seconds: str = Field(description="'auto' until the audio's length is known.")
    seed: int
    error: JobError | None
    queue_position: int | None = Field(description="1 is next.")
    phase: str | None
    step: int
    steps: int
    eta_seconds: float | None
    cancelling: bool
    attempts: int
    has_image: bool
    settings: dict[str, Any] = Field(description="What was asked for; the same settings give the same video.")
    result: dict[str, Any] | None = Field(description="What `POST /generate` replies, once completed.")


class VideoList(BaseModel):
    """One page of jobs."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """The reply of `DELETE /v1/videos/{id}`."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class Generated(BaseModel):
    """The reply of `POST /generate`."""

    model_config = ConfigDict(extra="allow")

    id: str
    elapsed_seconds: float
    peak_vram_gib: float
    width: int
    height: int
    num_frames: int
    frame_rate: float
    seed: int
    output_path: str
    video_url: str
    phases: dict[str, float]
    model_version: str
    quality: str
    notices: list[str]


class ErrorReply(BaseModel):
    """An error, in the shape of OpenAI's API."""

    class Detail(BaseModel):
        """`param` is the field that is wrong, or null."""

        code: str
        message: str
        type: str
        param: str | None

    error: Detail


class PlainErrorReply(BaseModel):
    """An error of `POST /generate`."""

    error: str
    code: str
    param: str | None


class LoadReply(BaseModel):
    """The reply of `POST /api/load` and `POST /api/unload`."""

    status: Literal["loaded", "unloaded", "unloading"] = Field(description="'unloading': after the running job.")


class LoadedModel(BaseModel):
    """A model that holds device memory, in the shape of Ollama's API."""

    name: str
    model: str
    size: int = Field(description="Bytes of the model's files.")
    size_vram: int = Field(description="Bytes of device memory that the worker holds.")
    expires_at: str | None = Field(description="ISO time; null while a job runs and when it stays loaded.")


class LoadedModels(BaseModel):
    """The reply of `GET /api/ps`."""

    models: list[LoadedModel]


class Gpu(BaseModel):
    """Bytes of the GPU's memory; `ours` is null where the driver does not report it per process."""

    total: int
    free: int
    used: int
    ours: int | None


class Status(BaseModel):
    """What the page shows."""

    worker: str
    loaded: bool
    expires_at: str | None
    queued: int
    running: str | None
    gpu: Gpu | None
    device_bytes: int


class Health(BaseModel):
    """The reply of `GET /health`."""

    status: Literal["ok"] = "ok"
    worker: str
    queued: int


class Ready(BaseModel):
    """The reply of `GET /ready`."""

    ready: bool
    worker: str
    problem: str | None = Field(description="Why a job that came now would not be taken.")


class Model(BaseModel):
    """The served model, in the shape of OpenAI's API."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ltx-a2v"


class ModelList(BaseModel):
    """The reply of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]


class Fitted(BaseModel):
    """Size in pixels and length in frames and seconds, rounded up to what the model can make."""

    width: int
    height: int
    size: str
    num_frames: int
    seconds: float
