"""Audio-to-video with LTX-2.3 on a GPU that is already busy.

    from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths

    pipeline = A2VPipeline.open(ModelPaths.discover(Path("models")))
    result = pipeline.run(GenerationRequest(prompt="She speaks.", image="face.png", audio="speech.wav"))

Names are imported when they are first used, so that what needs no torch (requests, errors, the server's HTTP process)
does not load it.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx_a2v.checkpoint.paths import ModelPaths
    from ltx_a2v.errors import A2VError
    from ltx_a2v.events import GenerationResult
    from ltx_a2v.request import GenerationRequest, Guidance
    from ltx_a2v.session import A2VPipeline

__all__ = ["A2VError", "A2VPipeline", "GenerationRequest", "GenerationResult", "Guidance", "ModelPaths"]

_HOMES = {
    "A2VError": "errors",
    "A2VPipeline": "session",
    "GenerationRequest": "request",
    "GenerationResult": "events",
    "Guidance": "request",
    "ModelPaths": "checkpoint.paths",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("ltx-a2v")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
