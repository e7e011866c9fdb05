"""`/v1/videos`: jobs, in the shape of OpenAI's API of videos with more to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import PurePath
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import FileResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from ltx_a2v.errors import Conflict, Expired, NotFound
from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.bodies import VideoCreate
from ltx_a2v.serving.http.following import LONGEST_WAIT, is_known, next_state, states, tag_of, until_disconnect
from ltx_a2v.serving.http.routes.common import Found, Serving
from ltx_a2v.serving.jobs.folders import THUMBNAIL, VIDEO

RECONNECT_MS = 2000

routes = APIRouter(prefix="/v1/videos", tags=["videos"], responses=openapi.errors(401, 403))
_created = openapi.errors(400, 408, 409, 413, 422, 429, 503, 507)


@routes.post("", openapi_extra=openapi.body("VideoCreate"), responses=_created)
async def create_video(request: Request, service: Serving) -> api.Video:
    """Make a video: the job is on the disk when this replies."""
    return await service.video(await service.create(request, VideoCreate, waited_for=False))


@routes.post(
    "/sync",
    openapi_extra=openapi.body("VideoCreate"),
    response_class=FileResponse,
    responses={**_created, **openapi.errors(500), 200: openapi.MP4},
)
async def create_video_and_wait(request: Request, service: Serving) -> FileResponse:
    """Make a video and reply with it. Leaving cancels the job."""
    job = await service.wait(await service.create(request, VideoCreate, waited_for=True), request)
    assert job.result is not None
    headers = {
        "X-Inference-Time-S": f"{job.result['elapsed_seconds']:.3f}",
        "X-Stage-Durations": json.dumps(job.result["phases"]),
        "X-Peak-Memory-MB": f"{job.result['peak_vram_gib'] * 1024:.0f}",
        "X-Video-Id": job.id,
    }
    return FileResponse(await service.file(job, VIDEO), headers=headers, media_type="video/mp4")


@routes.get("", responses=openapi.errors(422))
async def list_videos(
    service: Serving,
    after: Annotated[str | None, Query(description="The id that the page follows.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Most jobs of the page.")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
) -> api.VideoList:
    """A page of the jobs, newest first."""
    return await service.page(after, limit, order == "desc")


@routes.get(
    "/{video_id}",
    response_model=api.Video,
    responses={**openapi.errors(404, 422, 503), 200: openapi.TAGGED, 304: openapi.NOT_MODIFIED},
)
async def retrieve_video(
    job: Found,
    service: Serving,
    request: Request,
    wait: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT, allow_inf_nan=False, description="Seconds to wait for the next change.")
    ] = 0,
    if_none_match: Annotated[str | None, Header(description="The `ETag` of an earlier reply; see `wait`.")] = None,
) -> Response:
    """The job, now; 200 also for a failed one, whose `error` says why.

    With `If-None-Match`, 304 while it is as it was. With `wait`, the reply comes when it has changed, or is as it is
    when it has ended or the time is over: since the reply with that `ETag`, else since the request.
    """
    if wait:
        video = await next_state(service, job, if_none_match, wait, partial(until_disconnect, request))
    else:
        video = await service.video(job)
    tag = tag_of(video)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if is_known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(video.model_dump_json(), media_type="application/json", headers=headers)


@routes.head("/{video_id}/content", include_in_schema=False)
@routes.get(
    "/{video_id}/content",
    response_class=FileResponse,
    responses={**openapi.errors(404, 409, 410, 422), 200: openapi.CONTENT, 206: openapi.CONTENT, 416: openapi.RANGE},
)
async def download_content(
    job: Found,
    service: Serving,
    variant: Annotated[Literal["video", "thumbnail"], Query(description="Which file.")] = "video",
    partial: Annotated[bool, Query(description="Of a long video that is not complete, what is finished.")] = False,
) -> FileResponse:
    """The mp4 (ranges are understood) or a JPEG of its first frame."""
    if partial and variant == "video":
        path = await service.partial(job)
        return FileResponse(path, media_type="video/mp4", filename=f"{job.id}.mp4", content_disposition_type="inline")
    name, kind = (VIDEO, "video/mp4") if variant == "video" else (THUMBNAIL, "image/jpeg")
    filename = f"{job.id}{PurePath(name).suffix}"
    path = await service.file(job, name)
    return FileResponse(path, media_type=kind, filename=filename, content_disposition_type="inline")


INPUT = r"^(audio|image|image_\d|video)$"


@routes.head("/{video_id}/inputs/{which}", include_in_schema=False)
@routes.get(
    "/{video_id}/inputs/{which}",
    response_class=FileResponse,
    responses={**openapi.errors(404, 410, 422), 200: openapi.BYTES, 206: openapi.BYTES, 416: openapi.RANGE},
)
async def download_input(
    job: Found,
    which: Annotated[str, Path(description="`audio`, `image`, `video`, or `image_0` and so on.", pattern=INPUT)],
    service: Serving,
) -> FileResponse:
    """What was uploaded for this job, never shown by a browser as a page."""
    if job.expired:
        raise Expired(f"The files of {job.id} were removed after their time.")
    path = await asyncio.to_thread(service.folders.input_file, job.id, which)
    if path is None:
        raise NotFound(f"{job.id} has no uploaded {which}.")
    return FileResponse(path, media_type="application/octet-stream", filename=which)


@routes.get(
    "/{video_id}/events",
    response_class=EventSourceResponse,
    responses={**openapi.errors(404), 200: openapi.EVENT_STREAM},
)
async def follow_video(job: Found, service: Serving) -> AsyncIterator[ServerSentEvent]:
    """The job whenever it changes, as server-sent events named `video`; the stream ends with the job.

    Between them are events named `preview`: a rough picture of the video so far, a JPEG in base64.
    """
    yield ServerSentEvent(retry=RECONNECT_MS)
    last = shown = None
    async with contextlib.aclosing(states(service, job)) as found:
        async for video, preview in found:
            if video != last:
                yield ServerSentEvent(event="video", raw_data=video.model_dump_json())
            if preview is not None and preview is not shown:
                yield ServerSentEvent(event="preview", raw_data=preview)
            last, shown = video, preview


@routes.post("/{video_id}/cancel", responses=openapi.errors(404, 409))
async def cancel_video(job: Found, service: Serving) -> api.Video:
    """Stop it at its next step. `cancelling` is true until the worker has confirmed."""
    await service.scheduler.cancel(job)
    return await service.video(await service.find(job.id))


@routes.delete("/{video_id}", responses=openapi.errors(404, 409))
async def delete_video(job: Found, service: Serving) -> api.VideoDeleted:
    """Remove a job that has ended or waits, and its files."""
    if job.state == "in_progress":
        raise Conflict(f"{job.id} is in progress: cancel it first.")
    if job.state == "queued":
        await service.scheduler.cancel(job)
    if not await asyncio.to_thread(service.store.delete, job.id):
        raise Conflict(f"{job.id} is in progress: cancel it first.")
    await asyncio.to_thread(service.folders.remove, job.id)
    return api.VideoDeleted(id=job.id)
