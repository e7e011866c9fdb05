"""The page and the API's page: static files over the API, and an example to begin with."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from ltx_a2v.puppet.examples import FACE, PROMPT, SPEECH

PAGE = Path(str(files("ltx_a2v.serving") / "page"))

EXAMPLE = {"image": f"/examples/{FACE.name}", "audio": f"/examples/{SPEECH.name}", "prompt": PROMPT}
"""For a form: where its picture and its sound are, and its prompt."""

routes = APIRouter(include_in_schema=False)


@routes.head("/")
@routes.get("/")
def page() -> FileResponse:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


@routes.get("/docs")
def api_page() -> FileResponse:
    return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})


@routes.get(EXAMPLE["image"])
def example_picture() -> FileResponse:
    return FileResponse(FACE)


@routes.get(EXAMPLE["audio"])
def example_sound() -> FileResponse:
    return FileResponse(SPEECH, media_type="audio/wav")


def mount_files(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=PAGE))
