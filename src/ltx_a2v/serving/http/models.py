"""The shapes of replies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

UnixTime = Annotated[int, Field(description="Unix time in seconds.")]
WorkerState = Annotated[
    str,
    Field(
        description="none, starting, standby, broken, loading, busy or idle; of several workers the first of busy, "
        "loading, idle, standby, starting, none, broken; elsewhere where others run the jobs."
    ),
]
Devices = Annotated[dict[str, str], Field(description="The state of each worker, by its device.")]
Param = Annotated[str | None, Field(description="The field that the error is about; null where it is about none.")]


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(description="As in replies with an error: `invalid_audio`, `out_of_memory` and so on.")
    message: str = Field(description="What was wrong and what to do, in a sentence or two.")
    param: Param


class Video(BaseModel):
    """A job, in the shape of OpenAI's `video` with more to it."""

    id: str = Field(description="Names the job in all other calls.")
    object: Annotated[Literal["video"], Field(description="Always `video`.")] = "video"
    model: str = Field(description="The served model's name.")
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"] = Field(
        description="The last three are final."
    )
    progress: int = Field(ge=0, le=100, description="Percent; 100 means that the file is saved.")
    created_at: UnixTime
    started_at: int | None = Field(description="Unix time of the last attempt's start; null before.")
    completed_at: int | None = Field(description="Unix time when the job ended, however it did.")
    expires_at: int | None = Field(description="Unix time when the files are removed; null where they are kept.")
    expired: bool = Field(description="Whether the files were removed.")
    prompt: str = Field(description="As it was sent.")
    size: str = Field(description="WIDTHxHEIGHT in pixels; 'auto' until the picture's shape is known.")
    seconds: str = Field(description="Length of the video; 'auto' until the audio's length is known.")
    seed: int = Field(description="The same seed and settings give the same video.")
    error: JobError | None = Field(description="Why a failed job failed; null for others.")
    queue_position: int | None = Field(description="1 is next; null for a job that does not wait.")
    phase: str | None = Field(description="What a running job does: `encode_prompt`, `stage_1`, `decode` and so on.")
    step: int = Field(description="Steps of the phase that are done.")
    steps: int = Field(description="Steps of the phase; 0 where it has none.")
    window: int = Field(description="Which window of a long video is made; 1 for others.")
    windows: int = Field(description="How many windows the video has, once that is known.")
    eta_seconds: float | None = Field(description="Expected seconds until it ends; null where they are unknown.")
    cancelling: bool = Field(description="Whether a running job was told to stop and has not yet.")
    attempts: int = Field(description="How often it was started: a second time after a crash.")
    device: str | None = Field(
        description="Where it is made or was made last, as `cuda:0`, or `cuda:0+cuda:1` together; null before."
    )
    has_image: bool = Field(description="Whether a picture was given.")
    settings: dict[str, Any] = Field(
        description="All settings, with the defaults of those that were left out; the same give the same video."
    )
    result: dict[str, Any] | None = Field(
        description="What `POST /generate` replies, once completed; with `memory`, GiB by phase."
    )


class VideoList(BaseModel):
    """One page of jobs."""

    object: Annotated[Literal["list"], Field(description="Always `list`.")] = "list"
    data: list[Video] = Field(description="The jobs, in the order that was asked for.")
    first_id: str | None = Field(description="Id of the first one; null where there is none.")
    last_id: str | None = Field(description="Id of the last one: the next page's `after`.")
    has_more: bool = Field(description="Whether jobs follow.")


class VideoEvent(BaseModel):
    """What a webhook says."""

    type: Literal["video.completed", "video.failed", "video.cancelled"] = Field(description="How the job ended.")
    timestamp: str = Field(description="When it ended, as ISO 8601.")
    data: Video = Field(description="The job, as `GET /v1/videos/{id}` replies it.")


class VideoDeleted(BaseModel):
    """The reply of `DELETE /v1/videos/{id}`."""

    id: str = Field(description="Of the job that is gone.")
    object: Annotated[Literal["video.deleted"], Field(description="Always `video.deleted`.")] = "video.deleted"
    deleted: Annotated[bool, Field(description="Always true.")] = True


class Generated(BaseModel):
    """The reply of `POST /generate`."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="Of its job.")
    elapsed_seconds: float = Field(description="From the job's start to the saved file, loading included.")
    peak_vram_gib: float = Field(description="Most GPU memory that the model took; on a CPU, of its tensors or 0.")
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    num_frames: int = Field(description="Frames of the video.")
    frame_rate: float = Field(description="Frames per second.")
    seed: int = Field(description="The seed that was used.")
    output_path: str = Field(description="The file on the server.")
    video_url: str = Field(description="Where to fetch it from this server.")
    phases: dict[str, float] = Field(description="Seconds by phase.")
    model_version: str = Field(description="As the checkpoint says it.")
    quality: str = Field(description="The quality that was used.")
    prompt: str | None = Field(None, description="The prompt as the model got it, with style and enhancement.")
    sync: dict[str, Any] | None = Field(
        None, description="As of `ltx-a2v check --json`, where `check_sync` asked for it."
    )
    marks: dict[str, Any] | None = Field(
        None, description="`id` of the video in its marks, and whether they are `signed`; null where they are off."
    )
    notices: list[str] = Field(description="What the user should know, as that the budget was short.")


class Inspection(BaseModel):
    """The reply of `POST /v1/inspect`; as of `ltx-a2v inspect --json`."""

    state: Literal["intact", "changed", "unsigned", "unmarked", "unknown"] = Field(
        description="`intact`: as it was signed; `unsigned`: marks without a signature; `unmarked`: none at all; "
        "`unknown`: this server cannot check signatures."
    )
    problem: str | None = Field(description="Why it counts as changed, or cannot be checked.")
    made_by_ai: bool = Field(description="Whether the file says that a model made it.")
    made: dict[str, Any] | None = Field(
        description="`provider`, `system`, `version`, `model`, `time`, `id`, `signed`; null for files of others."
    )
    settings: dict[str, Any] | None = Field(
        description="`request` (fields of a request), `video`, `model`, `inputs`: with their SHA-256."
    )
    signature: dict[str, Any] | None = Field(
        description="`signer`, `issuer`, and `is_known`: whether it is this installation's."
    )
    generator: str | None = Field(description="The software that signed it.")


class ErrorReply(BaseModel):
    """An error, in the shape of OpenAI's API."""

    class Detail(BaseModel):
        """What was wrong."""

        code: str = Field(description="For programs: `invalid_request`, `queue_full` and so on.")
        message: str = Field(description="For people: what was wrong, what was given, what to do.")
        type: str = Field(description="`server_error` for a status from 500, else `invalid_request_error`.")
        param: Param

    error: Detail = Field(description="What was wrong.")


class PlainErrorReply(BaseModel):
    """An error of `POST /generate`."""

    error: str = Field(description="For people: what was wrong, what was given, what to do.")
    code: str = Field(description="For programs: `invalid_request`, `queue_full` and so on.")
    param: Param


class LoadReply(BaseModel):
    """The reply of `POST /api/load` and `POST /api/unload`."""

    status: Literal["loaded", "unloaded", "unloading"] = Field(description="'unloading': after the running job.")


class LoadedModel(BaseModel):
    """A model that holds device memory, in the shape of Ollama's API."""

    name: str = Field(description="The served model's name.")
    model: str = Field(description="The same.")
    size: int = Field(description="Bytes of the model's files.")
    device: str = Field(description="Whose memory it holds: one device, or those that make each video together.")
    size_vram: int = Field(description="Bytes of device memory that the worker holds.")
    expires_at: str | None = Field(description="ISO time; null while a job runs and when it stays loaded.")


class LoadedModels(BaseModel):
    """The reply of `GET /api/ps`."""

    models: list[LoadedModel] = Field(
        description="One for each worker that has the model loaded or runs a job, in the order of the devices."
    )


class Gpu(BaseModel):
    """Bytes of the GPU's memory, of all processes."""

    device: str = Field(description="As `cuda:0`.")
    total: int = Field(description="All of it.")
    free: int = Field(description="Held by no process.")
    used: int = Field(description="Held by any process.")
    ours: int | None = Field(description="Held by the worker; null where the driver does not report it per process.")


class WorkerStatus(BaseModel):
    """One worker of the server."""

    device: str = Field(description="Names it: its device, or those that make each video together.")
    worker: WorkerState
    loaded: bool = Field(description="Whether it has the model loaded.")
    expires_at: str | None = Field(description="ISO time when it unloads the model; null without an end.")
    running: str | None = Field(description="Id of the job that it runs.")
    gpus: list[Gpu] = Field(description="Its GPUs; none without an NVIDIA GPU.")
    device_bytes: int = Field(description="Its device memory, by the driver or its own allocator.")


class Status(BaseModel):
    """What the page shows of the machine."""

    worker: WorkerState
    loaded: bool = Field(description="Whether a worker has the model loaded.")
    expires_at: str | None = Field(description="ISO time when the first one unloads it; null without an end.")
    queued: int = Field(description="Jobs that wait.")
    running: str | None = Field(description="Id of the first running job.")
    gpu: Gpu | None = Field(description="The first one; null without an NVIDIA GPU.")
    device_bytes: int = Field(description="Device memory of all workers.")
    workers: list[WorkerStatus] = Field(description="In the order of the devices.")


class Health(BaseModel):
    """The reply of `GET /health`."""

    status: Annotated[Literal["ok"], Field(description="Always `ok`.")] = "ok"
    worker: WorkerState
    devices: Devices
    queued: int | None = Field(description="Jobs that wait; null while the database is away.")


class Ready(BaseModel):
    """The reply of `GET /ready`."""

    ready: bool = Field(description="Whether a job that came now would be kept, and started or queued.")
    worker: WorkerState
    devices: Devices
    problem: str | None = Field(description="Why a job that came now would not be taken.")


class Model(BaseModel):
    """The served model, in the shape of OpenAI's API."""

    id: str = Field(description="Its name, which requests may leave out.")
    object: Annotated[Literal["model"], Field(description="Always `model`.")] = "model"
    created: UnixTime
    owned_by: Annotated[str, Field(description="Always `ltx-a2v`.")] = "ltx-a2v"


class ModelList(BaseModel):
    """The reply of `GET /v1/models`."""

    object: Annotated[Literal["list"], Field(description="Always `list`.")] = "list"
    data: list[Model] = Field(description="The one model.")


class Fitted(BaseModel):
    """Size in pixels and length in frames and seconds, rounded up to what the model can make."""

    width: int = Field(description="Pixels, a multiple of 64.")
    height: int = Field(description="Pixels, a multiple of 64.")
    size: str = Field(description="The same as `size` of a job.")
    num_frames: int = Field(description="Frames, 8k+1, within the server's limit.")
    seconds: float = Field(description="How long they last.")


class Estimate(BaseModel):
    """What a video would take."""

    seconds: float | None = Field(
        description="From its start to the saved file, with loading where the model is not loaded; null where unknown."
    )
    seconds_from: Literal["this size", "other sizes"] | None = Field(
        description="Finished jobs that the seconds come from; scaled by pixels from 'other sizes'."
    )
    device: str | None = Field(description="Where it would be made, as far as is known.")
    peak_bytes: int | None = Field(description="Most device memory; on a CPU, of weights and tensors. Null: unknown.")
    peak_from: Literal["a video of this size", "the plan"] | None = Field(description="Measured, or planned.")
    fits: bool | None = Field(description="Whether it fits into the memory that is free now; null where unknown.")
    problem: str | None = Field(description="What to do where it does not fit.")
    waiting: int = Field(description="Jobs that would have to end first.")
