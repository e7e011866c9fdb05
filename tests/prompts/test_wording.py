"""What the text encoder gets: styles, and an enhancer that works, is slow, is down, or answers nonsense."""

from __future__ import annotations

import json
import threading
import time
import typing
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest
from ltx_a2v.errors import InvalidRequest
from ltx_a2v.prompts.enhancer import INSTRUCTION, NotEnhanced, enhance
from ltx_a2v.prompts.templates import TEMPLATES, styled
from ltx_a2v.prompts.wording import worded
from ltx_a2v.request import PromptStyle
from ltx_a2v.settings.loading import ENHANCER_KEY, PromptEnhancer
from ltx_a2v.settings.model import ModelSettings

BETTER = "A close-up of a woman who speaks calmly to the camera."


class Endpoint:
    """An OpenAI-compatible server whose answer the test decides, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.status, self.headers = 200, {"Content-Type": "application/json"}
        self.pieces: Callable[[], Iterator[bytes]] = lambda: iter([completion(BETTER)])
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append((self.path, dict(self.headers), body))
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in endpoint.pieces():
                    try:
                        self.wfile.write(piece)
                    except OSError:  # the client has left
                        return

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def enhancer(self) -> PromptEnhancer:
        return PromptEnhancer(f"http://127.0.0.1:{self.server.server_port}/v1", "small")

    def answers(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.pieces, self.status, self.headers = lambda: iter([body]), status, headers


def completion(text: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("no_proxy", "*")
    served = Endpoint()
    yield served
    served.server.shutdown()
    served.server.server_close()


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a woman speaks", "audio": "speech.wav", **fields})


def test_every_style_has_a_template_around_the_users_words() -> None:
    assert set(TEMPLATES) == set(typing.get_args(PromptStyle))
    assert styled("a woman speaks", "none") == "a woman speaks"
    for style in ("portrait", "stage"):
        text = styled(" a woman speaks", style)
        assert " A woman speaks. The " in text
        assert "camera stands still" in text
        assert styled("", style).count("  ") == 0


def test_an_unknown_style_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="prompt_style 'opera' is none of 'none', 'portrait' or 'stage'"):
        request(prompt_style="opera")


def test_a_style_is_said_and_nothing_is_said_without() -> None:
    prompt, (notice,) = worded(request(prompt_style="portrait"), None)
    assert notice == f"The prompt became: {prompt}"
    assert worded(request(), None) == ("a woman speaks", ())


def test_the_endpoint_gets_the_prompt_and_nothing_else(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENHANCER_KEY, "secret")
    asked = request(enhance_prompt=True, prompt_style="stage", image="face.png", negative_prompt="rain")
    prompt, notices = worded(asked, endpoint.enhancer)
    assert prompt == styled(BETTER, "stage")
    assert notices == (f"The prompt became: {prompt}",)
    ((path, headers, body),) = endpoint.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "a woman speaks"}]
    assert body == {"model": "small", "messages": messages}


def test_thoughts_quotes_and_lines_are_taken_off(endpoint: Endpoint) -> None:
    endpoint.answers(completion('<think>hm\n</think>\n"A woman\nspeaks."\n'))
    assert enhance("x", endpoint.enhancer) == "A woman speaks."


NONSENSE = {
    "not JSON": (b"<html>", "something else than a chat completion"),
    "another object": (b'{"error": 1}', "something else than a chat completion"),
    "nested without end": (b"[" * 100_000, "something else than a chat completion"),
    "no text": (completion(None), "something else than text"),
    "empty": (completion('  "" '), "without words"),
    "too long": (completion("word " * 1000), "4999 characters, more than 2000"),
    "control characters": (completion("A \x1b[31mred\x07 one"), "cannot be printed"),
    "endless": (b" " * (2**20 + 1), "more than 1 MiB"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_leaves_the_users_prompt(endpoint: Endpoint, name: str) -> None:
    body, reason = NONSENSE[name]
    endpoint.answers(body)
    prompt, (notice,) = worded(request(enhance_prompt=True), endpoint.enhancer)
    assert prompt == "a woman speaks"
    assert notice.startswith("Your own words are used: the prompt enhancer ")
    assert "127.0.0.1" not in notice, "clients of a server have no business with its address"
    assert reason in notice


def test_an_error_and_a_redirect_leave_the_users_prompt(endpoint: Endpoint) -> None:
    endpoint.answers(b"", 500)
    with pytest.raises(NotEnhanced, match="replied 500"):
        enhance("x", endpoint.enhancer)
    endpoint.answers(b"", 302, Location=f"{endpoint.enhancer.url}/elsewhere")
    with pytest.raises(NotEnhanced, match="replied 302"):
        enhance("x", endpoint.enhancer)
    assert [path for path, *_ in endpoint.asked] == ["/v1/chat/completions"] * 2, "prompt and key went elsewhere"


def test_down(endpoint: Endpoint) -> None:
    endpoint.server.shutdown()
    endpoint.server.server_close()
    prompt, (notice,) = worded(request(enhance_prompt=True), endpoint.enhancer)
    assert prompt == "a woman speaks"
    assert "cannot be reached (Connection refused)" in notice


def test_an_endpoint_that_drips_is_left_in_time(endpoint: Endpoint) -> None:
    """Each read succeeds at once, so that the socket's own timeout never applies."""
    left = threading.Event()

    def drips() -> Iterator[bytes]:
        while not left.wait(0.02):
            yield b" "

    endpoint.pieces = drips
    began = time.monotonic()
    with pytest.raises(NotEnhanced, match=r"did not answer within 0\.2 s"):
        enhance("x", endpoint.enhancer, seconds=0.2)
    assert time.monotonic() - began < 2
    left.set()


def test_nothing_to_enhance_with() -> None:
    with pytest.raises(InvalidRequest, match=r"enhance_prompt True needs an endpoint .* give prompt_enhancer_url"):
        worded(request(enhance_prompt=True), None)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:11434", "is no address"),
        ("ftp://host/v1", "is no address"),
        ("http://[", "is no address"),
        ("http://user:pw@host/v1", "holds a password: give the key as LTX_A2V_PROMPT_ENHANCER_KEY"),
    ],
)
def test_urls_that_are_none(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        _ = ModelSettings(prompt_enhancer_url=url, prompt_enhancer_model="m").prompt_enhancer
    assert "pw" not in str(refused.value)


def test_a_url_needs_a_model() -> None:
    with pytest.raises(InvalidRequest, match="needs the model's name: give prompt_enhancer_model"):
        _ = ModelSettings(prompt_enhancer_url="http://127.0.0.1:1/v1").prompt_enhancer


def test_the_report_has_the_final_prompt(pipeline: A2VPipeline, request_fields: dict[str, Any]) -> None:
    report = pipeline.run(GenerationRequest(**request_fields, prompt_style="portrait")).as_json()
    assert report["prompt"] == styled(request_fields["prompt"], "portrait")
    assert f"The prompt became: {report['prompt']}" in report["notices"]
