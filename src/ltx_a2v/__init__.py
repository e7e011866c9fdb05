"""Audio-to-video with LTX-2.3 on a GPU that is already busy.

    from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths

    pipeline = A2VPipeline.open(ModelPaths.discover("~/models/LTX-2.3"))
    result = pipeline.run(GenerationRequest(prompt="She speaks.", image="face.png", audio="speech.wav"), progress=True)

With a budget and a quantization of one's own choice:

    from ltx_a2v import Budget, LoadOptions

    options = LoadOptions(transformer_quantization="int8", budget=Budget("8GiB"))
    pipeline = A2VPipeline.open(paths, options=options)

`pipeline.generate(request)` gives the events below, the last of which is `Done`.

Names are imported when they are first used, so that what needs no torch (requests, errors, the server's HTTP process)
does not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx_a2v.checkpoint.paths import ModelPaths
    from ltx_a2v.errors import A2VError
    from ltx_a2v.events import (
        Done,
        Event,
        GenerationResult,
        Notice,
        PhaseFinished,
        PhaseStarted,
        Planned,
        Previewed,
        StepFinished,
        WindowStarted,
    )
    from ltx_a2v.hardware.budget import Budget
    from ltx_a2v.planning.plan import Plan
    from ltx_a2v.puppet import puppet_paths
    from ltx_a2v.request import GenerationRequest, Guidance, Picture, Retake
    from ltx_a2v.session import A2VPipeline
    from ltx_a2v.settings.loading import LoadOptions, PromptEnhancer, StyleLora

__all__ = [
    "A2VError",
    "A2VPipeline",
    "Budget",
    "Done",
    "Event",
    "GenerationRequest",
    "GenerationResult",
    "Guidance",
    "LoadOptions",
    "ModelPaths",
    "Notice",
    "PhaseFinished",
    "PhaseStarted",
    "Picture",
    "Plan",
    "Planned",
    "Previewed",
    "PromptEnhancer",
    "Retake",
    "StepFinished",
    "StyleLora",
    "WindowStarted",
    "puppet_paths",
]

_HOMES = {
    "A2VError": "errors",
    "A2VPipeline": "session",
    "Budget": "hardware.budget",
    "Done": "events",
    "Event": "events",
    "GenerationRequest": "request",
    "GenerationResult": "events",
    "Guidance": "request",
    "LoadOptions": "settings.loading",
    "ModelPaths": "checkpoint.paths",
    "Notice": "events",
    "Previewed": "events",
    "PhaseFinished": "events",
    "PhaseStarted": "events",
    "Picture": "request",
    "Plan": "planning.plan",
    "Planned": "events",
    "PromptEnhancer": "settings.loading",
    "Retake": "request",
    "StepFinished": "events",
    "StyleLora": "settings.loading",
    "WindowStarted": "events",
    "puppet_paths": "puppet",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ltx-a2v")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
