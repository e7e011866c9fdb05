"""The official client, as it comes."""

from __future__ import annotations

import io
import json

import openai
import pytest

from tests.serving.conftest import Server, data_url, png, wav

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    with openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_create_poll_download_list_delete(client: openai.OpenAI) -> None:
    extra = {"audio_reference": {"audio_url": data_url(wav())}, "num_inference_steps": 2}
    video = client.videos.create_and_poll(
        prompt="hello", input_reference=("face.png", png(), "image/png"), seconds="4", size="1024x1792",
        extra_body=extra, poll_interval_ms=50,
    )  # fmt: skip
    assert (video.status, video.progress, video.size) == ("completed", 100, "1024x1792")
    assert video.model == client.models.list().data[0].id
    content = client.videos.download_content(video.id)
    assert content.read()[4:8] == b"ftyp"
    assert client.videos.download_content(video.id, variant="thumbnail").read()[:2] == b"\xff\xd8"
    assert client.videos.retrieve(video.id).id == video.id
    assert video.id in [found.id for found in client.videos.list(limit=1)]
    assert client.videos.delete(video.id).deleted is True
    with pytest.raises(openai.NotFoundError, match="There is no video"):
        client.videos.retrieve(video.id)


@pytest.mark.parametrize("reference", [data_url(wav()), json.dumps({"audio_url": data_url(wav())})])
def test_audio_as_text(client: openai.OpenAI, reference: str) -> None:
    image = {"image_url": data_url(png(), "image/png")}
    extra = {"audio_reference": reference, "num_frames": 9, "input_reference": image}
    video = client.videos.create(prompt="hello", extra_body=extra)
    assert client.videos.poll(video.id, poll_interval_ms=50).status == "completed"


def test_audio_as_a_file(client: openai.OpenAI) -> None:
    video = client.post(
        "/videos",
        body={"prompt": "hello", "num_frames": 9},
        files=[("audio", ("speech.wav", io.BytesIO(wav()), "audio/wav"))],
        options={"headers": {"Content-Type": "multipart/form-data"}},
        cast_to=openai.types.Video,
    )
    assert client.videos.poll(video.id, poll_interval_ms=50).status == "completed"


def test_a_failed_video_has_its_error(client: openai.OpenAI) -> None:
    extra = {"audio_reference": data_url(wav())}
    video = client.videos.create(prompt="fail-at=stage_1", extra_body=extra)
    failed = client.videos.poll(video.id, poll_interval_ms=50)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "invalid_audio")


def test_refusals_are_the_clients_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.videos.create(prompt="hello", size="1280x720", extra_body={"audio_reference": data_url(wav())})
    assert "use 704 or 768" in refused.value.message
