"""What all commands share: help, versions, mistakes before anything heavy is imported, and how they are stopped."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ltx_a2v import ModelPaths
from ltx_a2v.cli.main import COMMANDS, build_parser, main
from tests.cli.conftest import EXAMPLES
from tests.conftest import ROOT

NO_TORCH = """
import sys
from ltx_a2v.cli.main import main
try:
    code = main({arguments!r})
except SystemExit as stop:
    code = stop.code
assert code == {code}, code
heavy = {{"torch", "diffusers", "transformers", "bitsandbytes"}} & sys.modules.keys()
assert not heavy, heavy
"""


def check_no_torch(arguments: list[str], code: int) -> str:
    """Runs one command in a process of its own; what it says on stderr."""
    script = NO_TORCH.format(arguments=arguments, code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_help_into_a_full_disk() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m ltx_a2v --help >/dev/full"], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flags", [["--checkpoint-path", "/nowhere.safetensors"], ["--gemma-root", "/nowhere"]])
def test_a_missing_source_is_told_at_once(flags: list[str]) -> None:
    said = check_no_torch(["quantize", "--output-path", "out", *flags], 2)
    assert "/nowhere" in said
    assert "does not exist" in said


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["generate", "--help"], ["get", "--dir", "/nowhere", "--print"]]
)
def test_answers_load_no_heavy_library(arguments: list[str]) -> None:
    check_no_torch(arguments, 1 if "--print" in arguments else 0)


MISTAKES = [
    (["--heigth", "64"], "there is no flag --heigth; did you mean --height?"),
    (["--volume", "64"], "there is no flag --volume; see ltx-a2v generate --help"),
    (["--transformer-quantization", "int9"], "There is no quantization mode 'int9': did you mean 'int8'?"),
    (["--keep-bf16-blocks", "5-3"], "is not a list of blocks"),
    (["--device", "gpu"], "use cuda, cuda:1 or cpu"),
    (["--vram-budget", "10"], "--vram-budget 10 has no unit; write 10GiB."),
    (["--image", str(EXAMPLES / "speech.wav")], "is not an image that can be read"),
    (["--audio", str(EXAMPLES / "robot.png")], "robot.png"),
    (["--say", "Hello."], "--audio and --say both give the sound; give one of them."),
    (["--audio-start-time", "60"], "start earlier"),
    (["--output-path", "/nonexistent/v.mp4"], "The folder /nonexistent"),
    (["--size", "wide"], "--size 'wide' is no size; write auto, landscape, portrait, square, or 768x512."),
    (["--size", "512x512", "--width", "64"], "say the same thing: give one."),
    (["--model-dir", "/nonexistent"], "The model folder /nonexistent does not exist; `ltx-a2v get` downloads"),
    (["--checkpoint-path", "/nonexistent.safetensors"], "/nonexistent.safetensors does not exist"),
    (["--spatial-upsampler-path", str(ROOT / "pyproject.toml")], "pyproject.toml is not a safetensors file"),
    (["--lora", str(EXAMPLES / "speech.wav")], "speech.wav is not a safetensors file"),
    (["--gemma-root", str(EXAMPLES)], "is " + str(EXAMPLES) + " a Hugging Face folder?"),
]


def test_mistakes_load_no_heavy_library(model: ModelPaths, tmp_path: Path) -> None:
    """All in one process: what one of them imported would be found after the last."""
    script = "import sys\nfrom ltx_a2v.cli.main import main\n"
    for flags, _ in MISTAKES:
        arguments = ["generate", "--model-dir", str(model.checkpoint.parent), "--prompt", "p"]
        arguments += ["--audio", str(EXAMPLES / "speech.wav"), "--output-path", str(tmp_path / "v.mp4"), *flags]
        script += f"try: assert main({arguments!r}) == 2\nexcept SystemExit as stop: assert stop.code == 2\n"
    script += "assert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for line, (_, says) in zip(done.stderr.splitlines(), MISTAKES, strict=True):
        assert says in line


def test_what_may_have_been_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["generat"], "'generat' does not exist; did you mean 'generate'?"),
        (["generate", "--prompt", "p", "--audio", "a", "--dtype", "bfloat"], "did you mean 'bfloat16'?"),
        (["serve", "--log-format", "xml"], "choose one of text, json;"),
        (["demo", "speech.wav"], "'speech.wav' is not expected here"),
        (["bench", "compare"], "ltx-a2v bench compare: the following arguments are required: A, B;"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert says in capsys.readouterr().err


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(r"ltx-a2v \d\S+, Python 3\S+, torch \S+, diffusers \S+, transformers \S+\n", shown)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    commands = re.findall(r"^  ltx-a2v (.+)$", shown, re.MULTILINE)
    assert commands
    for command in commands:
        build_parser().parse_args(shlex.split(command))


def test_everyday_flags_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    everyday, expert = capsys.readouterr().out.split("expert: request:")
    for flag in ("--prompt", "--image", "--audio", "--size", "--output-path", "--overwrite", "--model-dir"):
        assert f"  {flag} " in everyday
    for flag in ("--image-crf", "--video-cfg-guidance-scale", "--exact-passes"):
        assert f"  {flag} " in expert


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_libraries_are_imported(number: signal.Signals) -> None:
    script = "import os, sys\nfrom ltx_a2v.cli.stopping import importing\n"
    script += f"try:\n with importing(): os.kill(os.getpid(), {int(number)})\nexcept BaseException: sys.exit(1)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "ltx-a2v: stopped; nothing was written.\n"
