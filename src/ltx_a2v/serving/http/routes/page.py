"""The page: static files over the API."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

PAGE = Path(str(files("ltx_a2v.serving") / "page"))

routes = APIRouter(include_in_schema=False)


@routes.head("/")
@routes.get("/")
def page() -> FileResponse:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


def mount_files(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=PAGE))
