"""Over HTTP: speech preparation, styles, the enhancer and the measured sync."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.serving.conftest import Server


def test_the_fields_are_kept_in_the_job(server: Server) -> None:
    job = server.make(num_frames="9", speech_preparation="off", prompt_style="stage", check_sync="true")
    given = {name: job["settings"][name] for name in ("speech_preparation", "prompt_style", "check_sync")}
    assert given == {"speech_preparation": "off", "prompt_style": "stage", "check_sync": True}
    assert job["settings"]["enhance_prompt"] is False


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("prompt_style", "opera", "is none of 'none', 'portrait' or 'stage'"),
        ("speech_preparation", "loud", "is none of 'auto' or 'off'"),
        ("check_sync", "perhaps", "is neither true nor false"),
        ("enhance_prompt", "true", "needs an endpoint that does it, and none is set"),
    ],
)
def test_what_cannot_be_used_is_named(server: Server, field: str, value: str, reason: str) -> None:
    body = {"prompt": "x", "audio": "data:audio/wav;base64,AAAA", field: value}
    error = server.client.post("/v1/videos", files={name: (None, text) for name, text in body.items()}).json()["error"]
    assert error["param"] == field
    assert reason in error["message"]


def test_the_page_learns_of_styles_and_of_the_enhancer(start: Callable[..., Server], server: Server) -> None:
    options = server.client.get("/api/options").json()
    assert list(options["prompt_styles"]) == ["none", "portrait", "stage"]
    assert all("{words}" in template for template in options["prompt_styles"].values())
    assert options["enhances_prompts"] is False
    url = ("--prompt-enhancer-url", "http://127.0.0.1:1/v1", "--prompt-enhancer-model", "m")
    enhancing = start("--no-standby", *url)
    assert enhancing.client.get("/api/options").json()["enhances_prompts"] is True
    assert enhancing.create(enhance_prompt="true")["settings"]["enhance_prompt"] is True
