"""Styles of prompts: words around the user's own that say who speaks, that they speak, and what the camera does.

An audio-to-video model moves lips where prompt and sound agree that somebody speaks. Prompts that leave it out are one
reported cause of still faces; see docs/prompting.md.
"""

from __future__ import annotations

from ltx_a2v.request import PromptStyle

WORDS = "{words}"
"""Where the user's own words go."""
ENDINGS = (".", "!", "?", "…", '"', "”")
"""Of a sentence."""

TEMPLATES: dict[PromptStyle, str] = {
    "none": WORDS,
    "portrait": (
        "A close-up of one person who faces the camera. {words} The person speaks to the camera: the lips and the jaw "
        "move with every word and rest in every pause, the eyes blink, the head moves a little. The camera stands "
        "still, the whole face is in the frame and in focus."
    ),
    "stage": (
        "A medium shot of one speaker on a stage. {words} The speaker talks to the audience: the lips and the jaw move "
        "with every word and rest in every pause, the hands underline what is said. The camera stands still at eye "
        "level, the face is well lit and in focus."
    ),
}


def styled(prompt: str, style: PromptStyle) -> str:
    """The prompt within the template of `style`; "none" leaves it as it is."""
    if style == "none":
        return prompt
    words = prompt.strip()
    if not words:
        return TEMPLATES[style].replace(f"{WORDS} ", "")
    words = words[0].upper() + words[1:]
    return TEMPLATES[style].replace(WORDS, words if words.endswith(ENDINGS) else f"{words}.")
