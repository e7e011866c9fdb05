"""`serve --demo`, and the example that the page offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ltx_a2v.cli.flags import flag_name
from ltx_a2v.errors import InvalidInput
from ltx_a2v.puppet import CHECKPOINT, puppet_size
from ltx_a2v.puppet.examples import FACE, PROMPT, SPEECH
from ltx_a2v.settings.server import ServerSettings
from tests.puppet.conftest import SHORT, Film
from tests.serving.conftest import Server

NO_MODEL = {"LTX_A2V_MODEL_DIR": ""}


def test_the_example_is_served(server: Server) -> None:
    options = server.client.get("/api/options").json()
    example = options["example"]
    assert example["prompt"] == PROMPT
    assert options["demo"] is None
    for name, path, kind in (("image", FACE, "image/png"), ("audio", SPEECH, "audio/wav")):
        reply = server.client.get(example[name])
        assert (reply.content, reply.headers["content-type"]) == (path.read_bytes(), kind)
    assert server.client.get("/examples/Containerfile").status_code == 404


def test_the_demo_needs_no_model_files_and_says_what_it_is(start: Callable[..., Server]) -> None:
    server = start("--demo", environment=NO_MODEL)
    options = server.client.get("/api/options").json()
    assert (options["model"], options["demo"]) == (Path(CHECKPOINT).stem, puppet_size())
    assert "puppet" in options["model"]
    sizes = {(preset["long_side"], preset["short_side"]) for preset in options["presets"].values()}
    assert sizes == {(384, 256)}
    assert server.make()["status"] == "completed"


@pytest.mark.parametrize("name", ["model_dir", "checkpoint_path", "gemma_root"])
def test_another_model_together_with_the_demo(name: str, tmp_path: Path) -> None:
    settings = ServerSettings(demo=True, **{name: tmp_path})
    with pytest.raises(InvalidInput) as caught:
        settings.check()
    flag = flag_name(name)
    assert caught.value.worded(flag_name) == (
        f"--demo serves its own model, and {flag} (or LTX_A2V_{name.upper()}) gives another: leave one of them out."
    )


@pytest.mark.slow
def test_the_demo_speaks_over_http(start: Callable[..., Server]) -> None:
    environment = {**NO_MODEL, "LTX_A2V_ENGINE": "ltx_a2v.session:open_pipeline", "OMP_NUM_THREADS": "2"}
    server = start("--demo", environment=environment)
    fields = {"prompt": PROMPT, "num_inference_steps": SHORT["num_inference_steps"], "num_frames": SHORT["num_frames"]}
    files = {"audio": SPEECH.read_bytes(), "input_reference": FACE.read_bytes()}
    job = server.client.post("/v1/videos", data={**fields, "size": "256x256"}, files=files).json()
    assert server.wait(job["id"], seconds=200)["status"] == "completed"
    path = server.folder / "served.mp4"
    path.write_bytes(server.client.get(f"/v1/videos/{job['id']}/content").content)
    sync = Film.open(path).sync()
    assert sync.correlation >= 0.8
    assert abs(sync.lag) <= 1
