"""`/api/options`, `/api/fit` and `/api/estimate`: what a form for a video needs to know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

import ltx_a2v
from ltx_a2v.prompts.templates import TEMPLATES
from ltx_a2v.puppet import puppet_size
from ltx_a2v.request import DEFAULTS, LABEL, GenerationRequest, Guidance, nearest_sizes
from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.generation import fit_seconds, generation_of, longest_frames
from ltx_a2v.serving.http.presets import presets, qualities
from ltx_a2v.serving.http.routes import page
from ltx_a2v.serving.http.routes.common import Serving

LIMITS = {"max_pixels", "max_seconds", "max_image_mb", "max_audio_mb", "max_audio_seconds"}

routes = APIRouter(prefix="/api", tags=["form"], responses=openapi.errors(401, 403))


def _defaults() -> dict[str, Any]:
    names = ("frame_rate", "num_inference_steps", "seed", "negative_prompt")
    size = {"width": DEFAULTS.width, "height": DEFAULTS.height}
    guidance = {name: Guidance.model_fields[name].default for name in ("cfg", "modality")}
    return {name: GenerationRequest.model_fields[name].default for name in names} | size | guidance


FRAME_RATE: float = GenerationRequest.model_fields["frame_rate"].default


@routes.get("/options")
def options(service: Serving) -> dict[str, Any]:
    """Version, defaults, presets, qualities, styles of prompts, limits and an example for a form; `demo` is the
    miniature's size where that is served."""
    return {
        "model": service.settings.model_id,
        "version": ltx_a2v.__version__,
        "demo": puppet_size() if service.settings.demo else None,
        "example": page.EXAMPLE,
        "presets": presets(service.settings.demo),
        "qualities": qualities(service.settings.distilled_checkpoint),
        "prompt_styles": TEMPLATES,
        "label": LABEL,
        "enhances_prompts": service.settings.prompt_enhancer is not None,
        "defaults": _defaults(),
        "limits": service.settings.model_dump(mode="json", include=LIMITS),
    }


@routes.get("/fit", responses=openapi.errors(422))
def fit(
    service: Serving,
    width: Annotated[int, Query(ge=1, le=100_000, description="Wanted width in pixels.")],
    height: Annotated[int, Query(ge=1, le=100_000, description="Wanted height in pixels.")],
    seconds: Annotated[float, Query(gt=0, le=100_000, allow_inf_nan=False, description="Wanted length.")],
    fps: Annotated[float, Query(ge=1, le=120, allow_inf_nan=False, description="Frames per second.")] = FRAME_RATE,
) -> api.Fitted:
    """The size and length that the model makes of what is asked for, rounded up, within the server's limits."""
    w, h = (nearest_sizes(side)[-1] for side in (width, height))
    frames = min(fit_seconds(seconds, fps), longest_frames(fps, service.settings))
    return api.Fitted(width=w, height=h, size=f"{w}x{h}", num_frames=frames, seconds=round(frames / fps, 3))


@routes.get("/estimate", responses=openapi.errors(413, 422))
async def estimate(
    service: Serving,
    width: Annotated[int, Query(ge=1, le=99_999, description="As `GET /api/fit` replies it.")],
    height: Annotated[int, Query(ge=1, le=99_999, description="As `GET /api/fit` replies it.")],
    num_frames: Annotated[int, Query(description="As `GET /api/fit` replies it.")],
    fps: Annotated[float, Query(allow_inf_nan=False, description="Frames per second.")] = FRAME_RATE,
    quality: Annotated[Literal["standard", "fast"] | None, Query(description="Default: the server's.")] = None,
    num_inference_steps: Annotated[int | None, Query(description="Denoising steps of stage 1.")] = None,
    cfg: Annotated[float | None, Query(allow_inf_nan=False, description="`guidance.cfg`.")] = None,
    modality: Annotated[float | None, Query(allow_inf_nan=False, description="`guidance.modality`.")] = None,
    image: Annotated[bool, Query(description="Whether a picture is given.")] = True,
) -> api.Estimate:
    """What a video would take, from the plan for it and from the videos that this server has made. Loads nothing."""
    given = {"quality": quality, "num_inference_steps": num_inference_steps}
    guidance = {"cfg": cfg, "modality": modality}
    body = {
        "prompt": "-",
        "size": f"{width}x{height}",
        "num_frames": num_frames,
        "fps": fps,
        "guidance": {name: value for name, value in guidance.items() if value is not None},
        **{name: value for name, value in given.items() if value is not None},
    }
    return await service.estimate(generation_of(body, service.settings), has_image=image)
