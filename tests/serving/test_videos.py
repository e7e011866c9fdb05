"""The API of jobs over real HTTP."""

from __future__ import annotations

import io

import av

from tests.serving.conftest import Server


def test_a_job_from_upload_to_download(server: Server) -> None:
    job = server.create("hello", seed=7, size="256x128", num_frames=9, num_inference_steps=3)
    assert job["object"] == "video"
    assert job["status"] in ("queued", "in_progress")
    done = server.wait(job["id"])
    assert done["status"] == "completed"
    assert (done["progress"], done["seconds"], done["size"], done["seed"]) == (100, "0.38", "256x128", 7)
    assert list(done["result"]["phases"])[:2] == ["load_audio", "encode_prompt"]
    content = server.client.get(f"/v1/videos/{job['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(content.content)) as container:
        assert container.streams.video[0].width == 64
    assert list((server.folder / "outputs").glob(f".work-{job['id']}*")) == []
