"""`ltx-a2v batch --server`: a table of requests over real HTTP."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ltx_a2v.cli.main import main
from tests.serving.conftest import Server, png, wav

HEADER = "prompt,audio,image,size,num_frames,guidance.cfg\n"


def results(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def test_a_table_on_a_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "speech.wav").write_bytes(wav())
    (tmp_path / "face.png").write_bytes(png())
    table = tmp_path / "talks.csv"
    rows = "one,speech.wav,face.png,256x128,9,2\nfail-at=decode,speech.wav,,,,\nthree,speech.wav,,4096x4096,,\n"
    table.write_text(HEADER + rows)
    assert main(["batch", str(table), "--server", server.base]) == 1
    done, failed, refused = results(tmp_path / "talks")
    assert (tmp_path / "talks" / "001.mp4").read_bytes().startswith(b"\0\0\0")
    assert done["status"] == "completed"
    assert failed["status"] == refused["status"] == "failed"
    assert failed["error"]
    assert "this server allows" in refused["error"]
    (job,) = [job for job in server.client.get("/v1/videos").json()["data"] if job["prompt"] == "one"]
    assert (job["size"], job["settings"]["images"], job["settings"]["guidance"]["cfg"]) == (
        "256x128",
        [{"frame": 0}],
        2,
    )

    (tmp_path / "talks" / "001.mp4").unlink()  # sent again, it is the same job
    assert main(["batch", str(table), "--server", server.base]) == 1
    assert (tmp_path / "talks" / "001.mp4").exists()
    assert len([job for job in server.client.get("/v1/videos").json()["data"] if job["prompt"] == "one"]) == 1


def test_a_full_queue_is_waited_for(start: object, tmp_path: Path) -> None:
    server = start("--max-queue", "1")  # type: ignore[operator]
    (tmp_path / "speech.wav").write_bytes(wav())
    table = tmp_path / "talks.csv"
    table.write_text("prompt,audio,num_frames\n" + "slow=0.02,speech.wav,9\n" * 3)
    assert main(["batch", str(table), "--server", server.base]) == 0
    assert [line["status"] for line in results(tmp_path / "talks")] == ["completed"] * 3


@pytest.mark.parametrize("url", ["localhost:1", "files/"])
def test_something_that_is_no_url(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "speech.wav").write_bytes(wav())
    table = tmp_path / "talks.csv"
    table.write_text("prompt,audio\nx,speech.wav\n")
    assert main(["batch", str(table), "--server", url]) == 2
    assert f"--server {url!r} is no URL" in capsys.readouterr().err


def test_a_server_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx_a2v.batch.server.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("ltx_a2v.batch.server.POLL_SECONDS", 0.05)
    (tmp_path / "speech.wav").write_bytes(wav())
    table = tmp_path / "talks.csv"
    table.write_text("prompt,audio\nx,speech.wav\n")
    assert main(["batch", str(table), "--server", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9 does not answer (ConnectError); start it" in capsys.readouterr().err
