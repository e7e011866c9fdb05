"""`ltx-a2v bench table`, `plot` and `compare`, on results of runs that never happened."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ltx_a2v.cli.main import main
from tests.bench.lines import H100, case, run, write

SMALL = case(budget="6GiB")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """int8 resident and streamed, and a mode that failed."""
    return write(
        tmp_path / "results.jsonl",
        *(run(number, step=step) for number, step in ((1, 0.25), (2, 0.24), (3, 0.26))),
        *(run(number, of=SMALL, step=0.5, copied=15 * 10**9, peak=5.4) for number in (1, 2)),
        {"kind": "profile", "case": SMALL, "machine": H100, "measured": {"kernel_seconds": 0.3, "copy_seconds": 0.4}},
        {"kind": "error", "case": case(mode="none"), "machine": H100, "error": {"code": "x", "message": "Too small."}},
    )


def rows(text: str) -> list[list[str]]:
    """Of the first table; a first row for its heads and a second for its lines."""
    text = text[text.index("\n|") + 1 :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def column(text: str, name: str) -> list[str]:
    table = rows(text)
    place = table[0].index(name)
    return [row[place] for row in table[2:]]


def test_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "table", str(results)]) == 0
    said = capsys.readouterr().out
    assert column(said, "step 1, s") == ["0.250 (0.240-0.260)", "0.500 (0.500-0.500)", ""]
    assert column(said, "resident") == ["all", "7", "failed"]
    assert column(said, "memory") == ["26.0 / 26.3 / 27.0", "5.40 / 5.70 / 6.40", ""]
    assert column(said, "files") == ["same", "same", ""]
    assert "- none, unlimited, 768x512: Too small.\n" in said
    assert "Each mode wrote the same bytes within all of its budgets." in said


def test_prompts_that_were_encoded_are_said(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "table", str(results)])
    assert "not in the cache" not in capsys.readouterr().out
    write(results, run(prompts_encoded=2))
    main(["bench", "table", str(results)])
    assert "The prompts were not in the cache" in capsys.readouterr().out


def test_a_streamed_step_is_measured_by_the_slower_of_copies_and_computation(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bench", "table", str(results)])
    said = capsys.readouterr().out
    assert column(said, "over floor") == ["–", f"{0.5 / (15 / H100['bus_gb_s']):.2f}", ""]
    write(results, run(step=0.4), run(of=SMALL, step=0.5, copied=15 * 10**9))
    main(["bench", "table", str(results)])
    assert column(capsys.readouterr().out, "over floor")[1] == f"{0.5 / 0.4:.2f}"


@pytest.mark.parametrize(("kernels", "shown"), [(0.3, "60%"), (0.51, "100%"), (0.1, "–")])
def test_busy_is_left_out_where_the_profiler_missed_kernels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kernels: float, shown: str
) -> None:
    """130 TFLOP at 760 TFLOP/s take 0.17 s at least."""
    profile = {"kind": "profile", "case": case(), "machine": H100, "measured": {"kernel_seconds": kernels}}
    main(["bench", "table", str(write(tmp_path / "results.jsonl", run(step=0.5), profile))])
    assert rows(capsys.readouterr().out)[2][9] == shown


def test_different_bytes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [run(1), run(2, file="b"), run(1, of=SMALL, file="c")]
    main(["bench", "table", str(write(tmp_path / "results.jsonl", *lines))])
    said = capsys.readouterr().out
    assert rows(said)[2][-1] == "DIFFERENT"
    assert "**Other bytes within other budgets**: int8, unlimited, 768x512." in said


def test_into_a_page(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ltx-a2v bench table -->\nold\n<!-- end of the table -->\nafter\n")
    for _ in range(2):
        assert main(["bench", "table", str(results), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- ltx-a2v bench table -->\nNVIDIA H100")
    assert text.endswith("<!-- end of the table -->\nafter\n")
    assert "old" not in text
    page.write_text("no markers")
    assert main(["bench", "table", str(results), "--page", str(page)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_plots(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "plots" / "h100"
    prefix.parent.mkdir()
    assert main(["bench", "plot", str(results), "--output", str(prefix)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in written] == [
        f"h100-{name}{suffix}" for name in ("memory", "phases") for suffix in (".png", ".svg")
    ]
    for path in written[::2]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.shape[1] > 1000
        colors = {tuple(color) for color in pixels[::2, ::2].reshape(-1, 3)}
        assert (0, 114, 178) in colors or (213, 94, 0) in colors  # a mode's, a phase's
    for path in written[1::2]:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_plots_without_matplotlib(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "plot", str(results)]) == 2
    assert capsys.readouterr().err == (
        "ltx-a2v: ltx-a2v bench plot needs the extra 'bench', which is not installed: `make extras EXTRAS=bench` in a "
        "checkout, or pip install 'WHEEL[bench]'.\n"
    )


def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str], a: list[dict], b: list[dict]) -> str:
    files = [str(write(tmp_path / f"{name}.jsonl", *lines)) for name, lines in (("a", a), ("b", b))]
    assert main(["bench", "compare", *files]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [((0.20, 0.21), "less"), ((0.30, 0.31), "more"), ((0.23, 0.25), "within the spread"), ((0.2,), "unknown: one run")],
)
def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: tuple[float, ...], verdict: str) -> None:
    before = [run(number, step=step) for number, step in ((1, 0.24), (2, 0.26))]
    said = compared(tmp_path, capsys, before, [run(number, step=step) for number, step in enumerate(steps)])
    row = next(row for row in rows(said) if row[3] == "step 1, s")
    assert row[-1] == verdict
    assert float(row[-2]) == pytest.approx(sum(steps) / len(steps) / 0.25, abs=0.001)
    assert rows(said)[-1][-1] == "the same"
    assert "Different devices" not in said


def test_compare_marks_other_devices_and_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = compared(tmp_path, capsys, [run(), run(of=SMALL)], [run(device="NVIDIA L4", file="b")])
    assert said.startswith("**Different devices**: ")
    assert rows(said)[-1][-1] == "different bytes"
    assert "1 combinations are in one of the files only." in said


def test_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(write(tmp_path / f"{case['mode']}.jsonl", run(of=case))) for case in (case(), case(mode="none"))]
    assert main(["bench", "compare", *files]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["table", "plot"])
@pytest.mark.parametrize(
    "content",
    [
        b"mode,seconds\n",
        b"[]\n",
        b'{"kind": "run"}\n',
        b"\xff\xfe",
        b'{"kind": "run',
        json.dumps(run() | {"measured": None}).encode(),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes
) -> None:
    file = tmp_path / "other.jsonl"
    file.write_bytes(content)
    assert main(["bench", command, str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ltx-a2v: ")
    assert str(file) in error
    assert error.count("\n") == 1


def test_one_file_is_too_few(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "compare", str(results)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
