"""A prompt written out by a language model behind an OpenAI-compatible endpoint, as vLLM and Ollama have one.

The endpoint gets the prompt and the instruction below, and nothing else of the request. Whatever it does wrong raises
`NotEnhanced`, so that the user's own prompt is used.
"""

from __future__ import annotations

import json
import os
import re
import threading

from ltx_a2v.errors import A2VError
from ltx_a2v.settings.loading import ENHANCER_KEY, PromptEnhancer

SECONDS = 30.0
"""For the whole answer, however slowly it arrives."""
MOST_BYTES = 2**20
MOST_CHARACTERS = 2000
"""Of an answer that is used; 150 words have about 900."""

INSTRUCTION = """\
You write prompts for a model that makes a video of a person who speaks, from one picture and a recording of the speech.
Rewrite the user's prompt as one paragraph of 60 to 150 words, in English, in the present tense.
Keep every fact that the user gives and contradict none. Say, in this order: who is seen and from how near; that this \
person speaks, in which mood, with lips and jaw that follow the words; what hands, eyes and head do; the place and the \
light; what the camera does, which is nothing where the user does not say it.
Do not write what the person says, for the recording decides that. Add no other people, no cuts, no captions, no music.
Answer with the paragraph alone.\
"""


class NotEnhanced(A2VError):
    """The endpoint gave no usable prompt; the message says why, as the end of a sentence."""

    code = "not_enhanced"


def enhance(prompt: str, enhancer: PromptEnhancer, seconds: float = SECONDS) -> str:
    """The prompt in the endpoint's words. Raises `NotEnhanced`, after `seconds` at the latest."""
    answers: list[bytes | NotEnhanced] = []
    # A socket's timeout is for each of its reads, so an endpoint that drips would hold us for ever.
    asking = threading.Thread(target=lambda: answers.append(_ask(prompt, enhancer, seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    if not answers:
        raise NotEnhanced(f"did not answer within {seconds:g} s")
    if isinstance(answers[0], NotEnhanced):
        raise answers[0]
    return _checked(_content(answers[0]))


def _ask(prompt: str, enhancer: PromptEnhancer, seconds: float) -> bytes | NotEnhanced:
    """The body of the endpoint's answer; it returns what went wrong, since it runs in a thread.

    Redirects are not followed: they would send prompt and key to an address that nobody chose.
    """
    import httpx  # only where a prompt is enhanced

    base = enhancer.url.rstrip("/")
    url = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
    messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": prompt}]
    key = os.environ.get(ENHANCER_KEY)
    headers = {"User-Agent": "ltx-a2v", **({"Authorization": f"Bearer {key}"} if key else {})}
    body = b""
    try:
        with httpx.stream(
            "POST", url, json={"model": enhancer.model, "messages": messages}, headers=headers, timeout=seconds
        ) as reply:
            if reply.status_code != httpx.codes.OK:
                return NotEnhanced(f"replied {reply.status_code}")
            for piece in reply.iter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    return NotEnhanced("sent more than 1 MiB")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        return NotEnhanced(f"cannot be reached ({reason})")
    return body


def _content(body: bytes) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise NotEnhanced("answered something else than a chat completion") from None
    if not isinstance(content, str):
        raise NotEnhanced("answered something else than text")
    return content


def _checked(content: str) -> str:
    """The answer on one line, without the thoughts that some models put before it, or quotes around it."""
    text = re.sub(r"^\s*<think>.*?</think>", "", content, flags=re.DOTALL)
    text = " ".join(text.split()).strip("\"“”' ")
    if not any(character.isalpha() for character in text):
        raise NotEnhanced("answered without words")
    if len(text) > MOST_CHARACTERS:
        raise NotEnhanced(f"answered {len(text)} characters, more than {MOST_CHARACTERS}")
    if not text.isprintable():
        raise NotEnhanced("answered characters that cannot be printed")
    return text
