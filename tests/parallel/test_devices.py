"""The devices of one video: mistakes are one sentence each."""

from __future__ import annotations

import pytest
import torch

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.cli.main import main
from ltx_a2v.errors import InvalidInput
from ltx_a2v.session import devices_from
from tests.cli.conftest import generate


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


def test_gpus_follow_the_first_one(three_gpus: None) -> None:
    assert [str(device) for device in devices_from(None, 2)] == ["cuda:0", "cuda:1"]
    assert [str(device) for device in devices_from("cuda:1", 2)] == ["cuda:1", "cuda:2"]
    assert [str(device) for device in devices_from("cpu", 2)] == ["cpu", "cpu"]
    assert [str(device) for device in devices_from("cuda", 1)] == ["cuda"]


def test_more_gpus_than_there_are(three_gpus: None) -> None:
    with pytest.raises(InvalidInput, match="gpus_per_clip 4 is more than the GPUs of this machine, 3; use at most 3"):
        devices_from(None, 4)
    with pytest.raises(InvalidInput, match="this machine from cuda:2 on, 1; use at most 1"):
        devices_from("cuda:2", 2)


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        (["cuda:1", "cuda:1"], "names 'cuda:1' twice"),
        (["cuda", "cuda:0"], "names 'cuda:0' twice"),
        (["cuda:0", "cpu"], "not both"),
        (["cuda:0", "cuda:7"], "device 'cuda:7' was asked for, but this machine has 3 GPUs"),
    ],
)
def test_devices_of_python(three_gpus: None, model: ModelPaths, devices: list[str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        A2VPipeline.open(model, devices=devices)
    with pytest.raises(InvalidInput, match="exclude each other"):
        A2VPipeline.open(model, device="cuda:0", devices=devices)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["0"], "--gpus-per-clip 0 is too small: it must be at least 1"),
        (
            ["5"],
            "--gpus-per-clip 5 is more than the passes of this video, 4 (its guidance asks for no more); use at most 4",
        ),
        (["2", "--quality", "fast"], "the passes of this video, 1 (quality fast has one pass); use at most 1"),
        (["2", "--measure"], "Measuring is for one GPU; leave it out, or use --gpus-per-clip 1"),
    ],
)
def test_numbers_of_the_command_line(
    model: ModelPaths, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert main(generate(model, "--gpus-per-clip", *flags)) == 2
    assert says in capsys.readouterr().err
