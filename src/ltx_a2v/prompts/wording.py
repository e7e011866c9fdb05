"""The words that the text encoder gets: the user's, written out where asked for, within a style's template."""

from __future__ import annotations

from ltx_a2v.errors import InvalidRequest, named
from ltx_a2v.prompts.enhancer import NotEnhanced, enhance
from ltx_a2v.prompts.templates import styled
from ltx_a2v.request import GenerationRequest
from ltx_a2v.settings.loading import PromptEnhancer


def worded(request: GenerationRequest, enhancer: PromptEnhancer | None) -> tuple[str, tuple[str, ...]]:
    """The final prompt, and notices: what it became, and why it was not enhanced. May wait for the enhancer."""
    prompt, notices = request.prompt, []
    if request.enhance_prompt:
        check_enhancer(request, enhancer)
        assert enhancer is not None
        try:
            prompt = enhance(prompt, enhancer)
        except NotEnhanced as error:
            notices.append(f"Your own words are used: the prompt enhancer {error}.")
    prompt = styled(prompt, request.prompt_style)
    if prompt != request.prompt:
        notices.append(f"The prompt became: {prompt}")
    return prompt, tuple(notices)


def check_enhancer(request: GenerationRequest, enhancer: object) -> None:
    """Raises `InvalidRequest` where a prompt is to be enhanced and there is nothing to do it."""
    if request.enhance_prompt and enhancer is None:
        reason = f"needs an endpoint that does it, and none is set: give {named('prompt_enhancer_url')}"
        raise InvalidRequest("enhance_prompt", True, reason)
