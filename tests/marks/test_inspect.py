"""`ltx-a2v inspect`: files as they were, and as they are after someone changed them."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from ltx_a2v.cli.main import main
from tests.conftest import ROOT
from tests.marks.conftest import Made


def _inspect(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = main(["inspect", str(path), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_intact_file(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = _inspect(made.path, capsys)
    assert (code, found["state"], found["problem"]) == (0, "intact", None)
    assert main(["inspect", str(made.path)]) == 0
    said = capsys.readouterr().out
    assert "The file is as it was when it was signed." in said
    assert "this installation" in said
    assert "seed 7" in said
    assert "cfg 2.5" in said


def test_the_key_of_another_installation(made: Made, own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = _inspect(made.path, capsys)
    assert (code, found["state"]) == (0, "intact")
    assert found["signature"]["is_known"] is False  # type: ignore[index]
    assert not own_data.exists()


@pytest.mark.parametrize("box", [b"mdat", b"moov"])
def test_one_flipped_bit(signed: Path, box: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(signed.read_bytes())
    content[content.index(box) + (2000 if box == b"mdat" else 40)] ^= 1
    signed.write_bytes(content)
    code, found = _inspect(signed, capsys)
    assert (code, found["state"]) == (1, "changed")
    assert "mismatch" in str(found["problem"])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off(signed: Path, share: float, capsys: pytest.CaptureFixture[str]) -> None:
    content = signed.read_bytes()
    signed.write_bytes(content[: int(len(content) * share)])
    code, found = _inspect(signed, capsys)
    assert (code, found["state"], found["made_by_ai"]) == (1, "changed", True)


@pytest.mark.parametrize("with_tags", [True, False])
def test_a_remuxed_file(signed: Path, tmp_path: Path, with_tags: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest is gone; the comment tag, which tools usually copy, says that there was one."""
    _remux(signed, tmp_path / "remuxed.mp4", with_tags)
    code, found = _inspect(tmp_path / "remuxed.mp4", capsys)
    assert (code, found["state"]) == ((1, "changed") if with_tags else (0, "unmarked"))
    assert found["made_by_ai"] is with_tags


def test_bytes_appended_in_a_skipped_box_change_nothing_that_is_signed(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with signed.open("ab") as file:
        file.write(b"\0\0\0\x10free12345678")
    assert _inspect(signed, capsys)[1]["state"] == "intact"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is not a video"), (b"hello" * 100, "is not a video"), (None, "cannot be read: No such file")],
)
def test_no_video(content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    assert main(["inspect", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_picture_is_no_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(ROOT / "examples" / "robot.png")]) == 2
    assert "is not a video" in capsys.readouterr().err


def _remux(source: Path, target: Path, with_tags: bool) -> None:
    with av.open(source) as old, av.open(target, "w") as new:
        if with_tags:
            new.metadata.update(old.metadata)
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
