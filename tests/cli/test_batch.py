"""`ltx-a2v batch`: tables of requests, here with the miniature."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ltx_a2v import ModelPaths
from ltx_a2v.cli.main import main
from tests.cli.conftest import EXAMPLES

SPEECH = str(EXAMPLES / "speech.wav")
SMALL = {"audio": SPEECH, "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 1}


def write(table: Path, *rows: dict[str, Any]) -> Path:
    if table.suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return table
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return table


def results(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((table.with_suffix("") / "results.csv").read_text().splitlines()))


def batch(table: Path, model: ModelPaths, *more: str) -> int:
    return main(["batch", str(table), "--model-dir", str(model.checkpoint.parent), "--device", "cpu", *more])


def test_a_row_that_fails_does_not_end_the_batch_and_is_tried_again(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = {"prompt": "one", **SMALL}, {"prompt": "three", "name": "third", **SMALL}
    wrong = {"prompt": "two", **SMALL, "guidance.stg_blocks": "99"}
    table = write(tmp_path / "talks.csv", first, wrong, last)
    assert batch(table, model) == 1
    ended = results(table)
    assert [line["status"] for line in ended] == ["completed", "failed", "completed"]
    assert "guidance.stg_blocks 99 is too large" in ended[1]["error"]
    videos = [tmp_path / "talks" / name for name in ("001.mp4", "002.mp4", "third.mp4")]
    assert [video.exists() for video in videos] == [True, False, True]
    before = videos[0].stat().st_mtime_ns

    write(table, first, wrong | {"guidance.stg_blocks": "0"}, last | {"seed": 7})
    assert batch(table, model) == 0
    assert [line["status"] for line in results(table)] == ["completed"] * 3
    assert videos[0].stat().st_mtime_ns == before  # neither made again ...
    assert results(table)[2]["seed"] == "7"  # ... nor, with another seed, left as it was
    assert "3 rows, 1 are made already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "prompt,audio,widht\nx,SPEECH,3\n", "Row 1 of TABLE: there is no column 'widht'; did you mean"),
        ("t.csv", "prompt,audio,width\nx,SPEECH,64\nx,SPEECH,100\n", "Row 2 of TABLE: width 100 must be a multiple"),
        ("t.csv", "prompt,audio\nx,nowhere.wav\n", "Row 1 of TABLE: There is no audio file"),
        ("t.csv", "prompt,audio\nhello, you,SPEECH\n", "Row 1 of TABLE has more cells than the header"),
        ("t.csv", 'prompt,audio\nx,"SPEECH\n', "The table TABLE is not CSV"),
        ("t.csv", "prompt,audio\n", "The table TABLE has no rows"),
        ("t.csv", "prompt,audio,size\nx,SPEECH,big\n", "Row 1 of TABLE: size 'big' is no size; write it as 768x512."),
        ("t.csv", "prompt,audio,name\nx,SPEECH,../a\n", "Row 1 of TABLE: name '../a' is no file name"),
        ("t.csv", "prompt,audio,name\nx,SPEECH,a\nx,SPEECH,a\n", "Rows 1 and 2 of TABLE have the same output"),
        ("t.jsonl", '{"prompt": "x"\n', "Row 1 of TABLE is not a JSON object; write one per line."),
        ("t.jsonl", '{"prompt": "x", "audio": "SPEECH", "images": 3}\n', "Row 1 of TABLE: images 3 must be a list"),
        ("t.txt", "x", "The table TABLE must be a .csv or a .jsonl file."),
    ],
)
def test_mistakes_name_the_row(
    name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / name
    table.write_text(content.replace("SPEECH", SPEECH))
    assert main(["batch", str(table)]) == 2
    said = capsys.readouterr().err
    assert message.replace("TABLE", str(table)) in said
    assert said.count("\n") == 1


def test_files_of_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "talks.jsonl", {"prompt": "x", **SMALL})
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "001.mp4").write_bytes(b"mine")
    assert main(["batch", str(table)]) == 2
    assert "001.mp4 exists already; add --overwrite" in capsys.readouterr().err
    (tmp_path / "talks" / "results.csv").write_text("my,own\n1,2\n")
    assert main(["batch", str(table), "--overwrite"]) == 2
    assert "is not a table of results of this command" in capsys.readouterr().err


def test_pictures_and_paths_are_relative_to_the_table(tmp_path: Path) -> None:
    from ltx_a2v.batch.rows import read_rows

    pictures = ["a.png", "b.png:last:0.5"]
    table = write(tmp_path / "t.jsonl", {"prompt": "x", "audio": "s.wav", "images": pictures, "guidance": {"cfg": 2}})
    (row,) = read_rows(table, Path("out"))
    assert row.request.audio == tmp_path / "s.wav"
    assert [(p.file, p.frame, p.strength) for p in row.request.pictures] == [
        (tmp_path / "a.png", 0, None),
        (tmp_path / "b.png", "last", 0.5),
    ]
    assert (row.request.guidance.cfg, row.request.output_path) == (2, Path("out/001.mp4"))


def test_mistakes_are_answered_before_torch(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", {"prompt": "x", "audio": "nowhere.wav"})
    code = "import sys; from ltx_a2v.cli.main import main; print(main(['batch', sys.argv[1]]), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code, table], capture_output=True, text=True, check=True)
    assert said.stdout == "2 False\n"
