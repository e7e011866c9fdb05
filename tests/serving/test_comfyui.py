"""The ComfyUI node by ComfyUI's protocol: as ComfyUI loads, asks and calls it, with ComfyUI's own modules stood in."""

from __future__ import annotations

import importlib.util
import io
import sys
import wave
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT
from tests.serving.conftest import Server
from tests.serving.receiver import receiving

AUDIO = {"waveform": torch.zeros(1, 2, 4000), "sample_rate": 8000}
IMAGE = torch.full((2, 32, 48, 3), 0.5)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file as ComfyUI loads it: a module of its own, which is in no package."""
    for name in ("LTX_A2V_SERVER", "LTX_A2V_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return load(monkeypatch)


def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "extras" / "comfyui" / "ltx_a2v_node.py"
    spec = importlib.util.spec_from_file_location("custom_nodes_ltx_a2v_node", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the node tells ComfyUI: `progress`; `stop` is an error that the user's stop raises."""
    told: dict[str, Any] = {"progress": [], "stop": None}

    class VideoFromFile:
        """ComfyUI's video."""

        def __init__(self, file: str) -> None:
            self.file = file

    class ProgressBar:
        """ComfyUI's bar."""

        def __init__(self, total: int) -> None:
            assert total == 100

        def update_absolute(self, value: int) -> None:
            told["progress"].append(value)

    def throw_exception_if_processing_interrupted() -> None:
        if told["stop"] is not None:
            raise told["stop"]

    modules = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted
        },
        "comfy_api": {},
        "comfy_api.input_impl": {"VideoFromFile": VideoFromFile},
        "folder_paths": {"get_temp_directory": lambda: str(tmp_path / "temp")},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return told


def call(node: ModuleType, server: Server, **given: Any) -> Any:
    """As ComfyUI: a new object, its `FUNCTION`, the inputs by name with their defaults."""
    (cls,) = node.NODE_CLASS_MAPPINGS.values()
    types = cls.INPUT_TYPES()
    inputs = {
        name: options[1]["default"]
        for name, options in {**types["required"], **types["optional"]}.items()
        if len(options) > 1 and "default" in options[1]
    }
    wanted = {"audio": AUDIO, "server": server.base, "size": "256x128", "frames": 9}
    values = {**inputs, **wanted, **given}
    assert set(types["required"]) <= set(values)
    return getattr(cls(), cls.FUNCTION)(**values)


def test_the_protocol(node: ModuleType) -> None:
    assert set(node.NODE_CLASS_MAPPINGS) == set(node.NODE_DISPLAY_NAME_MAPPINGS)
    (cls,) = node.NODE_CLASS_MAPPINGS.values()
    types = cls.INPUT_TYPES()
    assert {"audio", "prompt", "server", "seed", "frames"} <= set(types["required"])
    assert {"image", "key"} == set(types["optional"])
    assert (types["required"]["audio"][0], types["optional"]["image"][0]) == ("AUDIO", "IMAGE")
    assert (cls.RETURN_TYPES, cls.RETURN_NAMES) == (("VIDEO", "STRING"), ("video", "path"))
    assert isinstance(cls.CATEGORY, str)
    assert callable(getattr(cls, cls.FUNCTION))


def test_a_video_is_made(node: ModuleType, comfyui: dict[str, Any], server: Server) -> None:
    video, path = call(node, server, prompt="slow=0.01 ä", image=IMAGE, seed=7)
    assert video.file == path
    (job,) = [job for job in server.jobs() if job["prompt"] == "slow=0.01 ä"]
    assert (job["seed"], job["settings"]["num_frames"], job["has_image"]) == (7, 9, True)
    assert Path(path).read_bytes() == server.client.get(f"/v1/videos/{job['id']}/content").content
    assert comfyui["progress"] == sorted(comfyui["progress"])
    assert comfyui["progress"][-1] == 100
    sent = server.client.get(f"/v1/videos/{job['id']}/inputs/audio").content
    with wave.open(io.BytesIO(sent)) as sound:
        assert (sound.getnchannels(), sound.getframerate(), sound.getnframes()) == (2, 8000, 4000)


def test_without_comfyui_the_video_is_its_path(node: ModuleType, server: Server) -> None:
    video, path = call(node, server, frames=0)
    assert video == path
    assert Path(path).stat().st_size > 0


def test_failures_are_the_server_s_sentences(node: ModuleType, comfyui: dict[str, Any], server: Server) -> None:
    with pytest.raises(RuntimeError, match=r"^size '100x100'"):
        call(node, server, size="100x100")
    with pytest.raises(RuntimeError, match="cannot be decoded: it holds no sound"):
        call(node, server, prompt="fail-at=decode")
    with pytest.raises(RuntimeError, match="is no server"):
        node.Server("file:///etc/passwd")
    with pytest.raises(RuntimeError, match="does not answer"):
        node.Server("http://127.0.0.1:9").create({}, {})


def test_redirects_are_not_followed(node: ModuleType) -> None:
    """The key would go with them."""

    def redirect(handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with receiving(redirect) as other, pytest.raises(RuntimeError, match="answered 302 without a reason"):
        node.Server(other.url, "secret").create({}, {})
    assert len(other.bodies) == 1


def test_stopping_the_workflow_cancels_the_job(node: ModuleType, comfyui: dict[str, Any], server: Server) -> None:
    comfyui["stop"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        call(node, server, prompt="slow=0.2 stopped")
    (job,) = [job for job in server.jobs() if job["prompt"] == "slow=0.2 stopped"]
    assert server.wait(job["id"])["status"] == "cancelled"


def test_the_key_goes_to_the_own_server_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_A2V_SERVER", "http://own.example:8892/")
    monkeypatch.setenv("LTX_A2V_API_KEY", "secret")
    node = load(monkeypatch)
    assert node.Server("http://own.example:8892")._headers == {"Authorization": "Bearer secret"}
    assert node.Server("http://other.example:8892")._headers == {}
    assert node.Server("http://other.example:8892", "given")._headers == {"Authorization": "Bearer given"}


def test_values(node: ModuleType) -> None:
    picture = Image.open(io.BytesIO(node.png_of(torch.tensor([[[[0.0, 0.5, 2.0]]]]))))
    assert (picture.size, picture.getpixel((0, 0))) == ((1, 1), (0, 128, 255))
    sent = node.wav_of({"waveform": torch.tensor([[[0.0, 1.0, -2.0], [0.5, 0.0, 0.0]]]), "sample_rate": 44100})
    with wave.open(io.BytesIO(sent)) as sound:
        samples = np.frombuffer(sound.readframes(3), "<i2").reshape(3, 2)
    assert samples.tolist() == [[0, 16384], [32767, 0], [-32767, 0]]
