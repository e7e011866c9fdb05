"""What the demo and the page offer to begin with: a drawn face, a sentence and a prompt."""

from __future__ import annotations

from pathlib import Path

PROMPT = "A person speaks, smiling, green background."
"""In words that the puppet was trained with."""

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "examples"
EXAMPLES = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parents[1] / "examples"
"""In the wheel inside the package, in a checkout at its top."""
FACE = EXAMPLES / "face.png"
SPEECH = EXAMPLES / "speech.wav"
