"""What routes take as parameters."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from ltx_a2v.serving.http.service import Service
from ltx_a2v.serving.jobs.records import Job


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
"""The one service of this server."""


async def _job(video_id: Annotated[str, Path(description="The job's `id`.")], service: Serving) -> Job:
    return await service.find(video_id)


Found = Annotated[Job, Depends(_job)]
"""The job that the path names; 404 where there is none."""
