"""Several pictures over HTTP: in forms and in JSON."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.conftest import Server, data_url, png, wav

SMALL = {"size": "128x64", "num_frames": "17"}


def test_pictures_of_a_form(server: Server) -> None:
    parts = {
        "audio": wav(),
        "input_reference": png(),
        "images[0]": png(),
        "images[1]": png(),
    }
    fields = {
        "prompt": "a form",
        **SMALL,
        "images[0][frame]": "8",
        "images[0][strength]": "0.5",
        "images[1][frame]": "last",
    }
    reply = server.client.post("/v1/videos", data=fields, files=parts)
    assert reply.status_code == 200, reply.text
    job = server.wait(reply.json()["id"])
    assert job["status"] == "completed"
    assert job["has_image"]
    assert job["settings"]["images"] == [{"frame": 8, "strength": 0.5}, {"frame": "last"}]
    for name in ("image", "image_0", "image_1"):
        assert server.client.get(f"/v1/videos/{job['id']}/inputs/{name}").content == png()
    assert server.client.get(f"/v1/videos/{job['id']}/inputs/image_2").status_code == 404


def test_pictures_of_json(server: Server) -> None:
    body = {
        "prompt": "as json",
        "size": "128x64",
        "num_frames": 17,
        "audio": data_url(wav()),
        "images": [{"file": data_url(png(), "image/png"), "frame": "last"}],
    }
    job = server.client.post("/v1/videos", json=body).json()
    assert server.wait(job["id"])["settings"]["images"] == [{"frame": "last"}]
    assert not job["has_image"]


@pytest.mark.parametrize(
    ("images", "status", "param", "message"),
    [
        ([{"frame": 8}], 422, "images[0]", "has no picture: send a file, a data URL, or a path"),
        ([{"file": "PNG", "frame": -1}], 422, "images.frame", "-1 must be 0 to"),
        ([{"file": "PNG", "frame": "first"}], 422, "images", ""),
        ([{"file": "PNG", "strength": 2}], 422, "images", ""),
        ([{"file": "PNG"}] * 9, 422, "images", ""),
        ([{"file": "data:image/png;base64,AAAA"}], 422, "images[0]", ""),
    ],
)
def test_mistakes(server: Server, images: list[dict[str, Any]], status: int, param: str, message: str) -> None:
    picture = data_url(png(), "image/png")
    given = [{name: picture if value == "PNG" else value for name, value in one.items()} for one in images]
    body = {"prompt": "x", "audio": data_url(wav()), "images": given}
    reply = server.client.post("/v1/videos", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
    assert message in reply.json()["error"]["message"]


def test_a_gap_between_pictures_is_refused(server: Server) -> None:
    files = {"audio": wav(), "images[1]": png()}
    reply = server.client.post("/v1/videos", data={"prompt": "x"}, files=files)
    assert reply.status_code == 422
    assert "must be numbered from images[0] on, without a gap" in reply.json()["error"]["message"]


def test_another_api_s_name_of_the_picture_is_told(server: Server) -> None:
    reply = server.client.post("/v1/videos", data={"prompt": "x"}, files={"audio": wav(), "image": png()})
    assert reply.json()["error"]["message"] == "Unknown field 'image'; the picture is input_reference."
