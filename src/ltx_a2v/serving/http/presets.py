"""The sizes, step counts and qualities that the page offers, by the model that is served."""

from __future__ import annotations

from ltx_a2v.puppet import SIZES
from ltx_a2v.request import DEFAULTS, FAST_STEPS, GenerationRequest

STEPS: int = GenerationRequest.model_fields["num_inference_steps"].default

PRESETS: dict[str, dict[str, int]] = {
    "draft": {"long_side": 512, "short_side": 320, "num_inference_steps": 15},
    "standard": {
        "long_side": DEFAULTS.width,
        "short_side": DEFAULTS.height,
        "num_inference_steps": STEPS,
    },
    "large": {"long_side": 1280, "short_side": 768, "num_inference_steps": STEPS},
}
_LONG, _SHORT = max(SIZES[-1]), min(SIZES[-1])
PUPPET_PRESETS: dict[str, dict[str, int]] = {
    "draft": {"long_side": _LONG, "short_side": _SHORT, "num_inference_steps": 12},
    "standard": {"long_side": _LONG, "short_side": _SHORT, "num_inference_steps": STEPS},
}
"""Of the sizes that the miniature was trained for; squares have the short side."""


def presets(demo: bool) -> dict[str, dict[str, int]]:
    return PUPPET_PRESETS if demo else PRESETS


QUALITIES: dict[str, dict[str, str]] = {
    "standard": {"name": "best", "hint": "every step is guided by text and voice; takes longest"},
    "fast": {"name": "quick", "hint": f"{FAST_STEPS} steps without guidance: sooner, and another video"},
}
"""What the page calls the values of a request's `quality`; the first one is chosen at first."""


def qualities(distilled_checkpoint: bool) -> dict[str, dict[str, str]]:
    """Those that the served checkpoint can give."""
    return {name: words for name, words in QUALITIES.items() if name == "fast" or not distilled_checkpoint}
