"""The tools that assistants call: the operations of `/v1/videos`, by name and with one JSON object of arguments."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ltx_a2v.errors import InvalidRequest, did_you_mean
from ltx_a2v.serving.http.bodies import VideoCreate, parse_json
from ltx_a2v.serving.http.following import LONGEST_WAIT, UntilLeft, next_state
from ltx_a2v.serving.http.service import Service
from ltx_a2v.serving.http.uploads import body_of_json

Arguments = dict[str, Any]
AskedT = TypeVar("AskedT", bound=BaseModel)

_OTHER_NAMES = ("audio_reference", "model")
"""Fields of `VideoCreate` for clients of another API."""


class GetVideo(BaseModel):
    """Arguments of `get_video`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    id: str = Field(max_length=80, description="The job's id, as make_video gave it.")
    wait: float = Field(
        0, ge=0, le=LONGEST_WAIT, description="Seconds to wait for the next change of a job that has not ended."
    )


class ListVideos(BaseModel):
    """Arguments of `list_videos`."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, max_length=80, description="The id that the page follows.")
    limit: int = Field(20, ge=1, le=100, description="Most jobs of the page.")
    order: Literal["asc", "desc"] = Field("desc", description="By time of creation.")


async def make_video(service: Service, arguments: Arguments, _: UntilLeft) -> BaseModel:
    """Make a video in which the picture (input_reference) speaks the sound (audio), as the prompt describes it.

    Returns the job at once; call get_video until its status is completed, failed or cancelled. Files are data URLs
    (data:audio/wav;base64,…) or paths below the server's input folder; links are not fetched.
    """
    body = await service.receiving.parse(lambda: body_of_json(VideoCreate, json.dumps(arguments).encode()))
    return await service.video(await service.accept(body, waited_for=False))


async def get_video(service: Service, arguments: Arguments, until_left: UntilLeft) -> BaseModel:
    """A job by its id: status, progress, and why it failed.

    The mp4 of a completed one is at the path result.video_url of this server, with the same API key.
    """
    asked = _parsed(GetVideo, arguments)
    job = await service.find(asked.id)
    if not asked.wait:
        return await service.video(job)
    return await next_state(service, job, None, asked.wait, until_left)


async def list_videos(service: Service, arguments: Arguments, _: UntilLeft) -> BaseModel:
    """A page of the jobs, newest first."""
    asked = _parsed(ListVideos, arguments)
    return await service.page(asked.after, asked.limit, asked.order == "desc")


TOOLS = {tool.__name__: tool for tool in (make_video, get_video, list_videos)}


def input_schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema of each tool's arguments."""
    creation = VideoCreate.model_json_schema()
    creation["properties"] = {name: one for name, one in creation["properties"].items() if name not in _OTHER_NAMES}
    creation["required"] = ["prompt", "audio"]
    del creation["examples"]
    others = {"get_video": GetVideo.model_json_schema(), "list_videos": ListVideos.model_json_schema()}
    return {"make_video": creation, **others}


async def call_tool(service: Service, name: str, arguments: Arguments, until_left: UntilLeft) -> BaseModel:
    """`until_left` returns when the client has gone. Raises `InvalidRequest` and what the tool does."""
    if name not in TOOLS:
        hint = did_you_mean(name, TOOLS) or f"there are {', '.join(TOOLS)}"
        raise InvalidRequest(reason=f"There is no tool {name[:80]!r}; {hint}")
    return await TOOLS[name](service, arguments, until_left)


def _parsed(model: type[AskedT], arguments: Arguments) -> AskedT:
    return model(**parse_json(model, json.dumps(arguments).encode()))
