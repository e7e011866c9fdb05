"""Flags, environment, spans of time, what is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ltx_a2v.cli.flags import settings_from
from ltx_a2v.cli.main import build_parser, main
from ltx_a2v.errors import InvalidInput, InvalidModel, InvalidRequest
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.settings.loading import StyleLora
from ltx_a2v.settings.model import ModelSettings
from ltx_a2v.settings.server import KeepOutputs, ServerSettings
from ltx_a2v.settings.units import parse_bytes, parse_duration
from tests.serving.conftest import fake_engine


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        (300, 300),
        ("300", 300),
        (0.5, 0.5),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("7d", 604800),
        (0, 0),
        ("0", 0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1s", math.inf),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "5x", "1m5", "nan", "inf", True, "1e3", "٣s5"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("50GB", 50 * 10**9), ("1.5 GiB", 3 * 2**29), ("1000B", 1000), ("8Gi", 2**33), ("8g", 8 * 10**9)],
)
def test_bytes(text: str, amount: int) -> None:
    assert parse_bytes(text, "x") == amount


@pytest.mark.parametrize("text", ["10", "10.5"])
def test_bytes_without_a_unit(text: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_bytes(text, "vram_budget")
    assert str(error.value) == f"vram_budget {text} has no unit; write {text}GiB."


@pytest.mark.parametrize("text", ["", "0GiB", "-5GiB", "12 parsecs", "12GiB and more", "٣GiB", "1e3GiB", "nanGiB"])
def test_what_is_no_amount_of_bytes(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not an amount of memory"):
        parse_bytes(text, "x")


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("command", ["generate", "serve"])
def test_the_strength_of_a_lora_is_finite(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, strength: str, command: str
) -> None:
    """Refused before anything is loaded or listens."""
    needed = ["--prompt", "p", "--audio", "a.wav"] if command == "generate" else []
    folder = fake_engine(tmp_path)["LTX_A2V_MODEL_DIR"]
    assert main([command, *needed, "--model-dir", folder, "--lora", f"a.safetensors:{strength}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ltx-a2v: --lora 'a.safetensors' has the strength ")
    assert said.endswith("; it must be finite.\n")


def test_the_strength_of_a_lora_is_finite_in_python() -> None:
    with pytest.raises(InvalidRequest, match="lora 'a' has the strength nan"):
        StyleLora(Path("a"), math.nan)


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("7d / 50GB", KeepOutputs(604800, 50 * 10**9)),
        ("1h", KeepOutputs(3600, None)),
        ("1GB", KeepOutputs(math.inf, 10**9)),
        ("all", KeepOutputs(math.inf, None)),
    ],
)
def test_what_is_kept(text: str, keep: KeepOutputs) -> None:
    assert KeepOutputs.parse(text) == keep


def parsed(*flags: str) -> ServerSettings:
    return settings_from(build_parser().parse_args(["serve", *flags]), ServerSettings)


def test_flags_speak_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_A2V_PORT", "1234")
    monkeypatch.setenv("LTX_A2V_KEEP_ALIVE", "1h")
    assert (parsed().port, parsed().keep_alive_seconds) == (1234, 3600)
    assert (parsed("--port", "5").port, parsed("--cold-start").keep_alive_seconds) == (5, 0)
    assert parsed("--persistent").keep_alive_seconds == math.inf
    assert parsed("--no-standby").standby is False


@pytest.mark.parametrize("command", ["generate", "plan", "serve"])
def test_one_set_of_loading_flags(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    required = {"generate": ["--prompt", "p", "--audio", "a.wav"]}.get(command, [])
    flags = ["--dtype", "float32", "--vram-budget", "12GiB", "--vram-headroom", "2GiB", "--keep-bf16-blocks", "0,3-4"]
    flags += ["--lora", "a.safetensors", "--lora", "b.safetensors:0.5", "--no-prompt-cache", "--exact-passes"]
    flags += ["--no-cuda-graphs"]
    flags += ["--distilled-lora-strength", "0.8"]
    flags += ["--transformer-quantization", "int8", "--text-encoder-quantization", "int4"]
    monkeypatch.setenv("LTX_A2V_VRAM_HEADROOM", "3GiB")
    monkeypatch.setenv("LTX_A2V_DEVICE", "cpu")
    monkeypatch.delenv("LTX_A2V_REPRODUCIBLE")
    settings = settings_from(build_parser().parse_args([command, *required, *flags]), ModelSettings)
    assert settings.model_dump(exclude_defaults=True) == {
        "device": "cpu",
        "dtype": "float32",
        "vram_budget": "12GiB",
        "vram_headroom": "2GiB",
        "keep_bf16_blocks": "0,3-4",
        "lora": ("a.safetensors", "b.safetensors:0.5"),
        "distilled_lora_strength": 0.8,
        "prompt_cache": False,
        "exact_passes": True,
        "cuda_graphs": False,
        "transformer_quantization": "int8",
        "text_encoder_quantization": "int4",
    }
    assert settings.budget == Budget("12GiB", 2 * 2**30)


def test_an_environment_variable_turns_cuda_graphs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed().cuda_graphs
    monkeypatch.setenv("LTX_A2V_CUDA_GRAPHS", "0")
    assert not parsed().cuda_graphs


def test_the_worker_loads_as_the_settings_say(tmp_path: Path) -> None:
    """The server's settings pass through JSON to the process that opens the pipeline."""
    asked = parsed(
        "--model-dir",
        fake_engine(tmp_path)["LTX_A2V_MODEL_DIR"],
        "--lora",
        "a:0.5",
        "--no-prompt-cache",
        "--dtype",
        "float32",
    )
    told = ModelSettings(**json.loads(json.dumps(asked.for_worker())))
    left_out = {"model_dir", "checkpoint_path", "distilled_lora_path", "spatial_upsampler_path", "gemma_root"}
    fields = set(ModelSettings.model_fields) - left_out
    assert told.model_dump(include=fields) == asked.model_dump(include=fields)
    assert told.model_paths == asked.model_paths


def test_the_worker_is_told_that_the_checkpoint_is_distilled(tmp_path: Path) -> None:
    asked = parsed("--model-dir", fake_engine(tmp_path)["LTX_A2V_MODEL_DIR"], "--distilled-checkpoint")
    told = ModelSettings(**json.loads(json.dumps(asked.for_worker())))
    assert told.model_paths == asked.model_paths
    assert told.model_paths.distilled_lora is None
    assert told.default_quality == "fast"
    assert asked.model_bytes > 0
    told.check()


def test_several_loras_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_A2V_LORA", "a.safetensors:0.8,b.safetensors")
    assert parsed().lora == ("a.safetensors:0.8", "b.safetensors")


def test_every_flag_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    for name, field in ServerSettings.model_fields.items():
        if name != "engine":
            assert f"-{name.replace('_', '-')}" in shown
            assert field.description


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "99999"], "port 99999 "),
        (["--keep-alive", "soon"], "'soon' is not a duration"),
        (["--keep-outputs", "9 lives"], "is not a duration"),
        (["--max-queue", "0"], "max_queue 0 "),
        (["--keep-outputs", "0GB"], "keep_outputs '0GB'"),
    ],
)
def test_mistakes_name_their_field(flags: list[str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parsed(*flags)


def test_what_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="exclude each other"):
        parsed("--cold-start", "--persistent").check()
    with pytest.raises(InvalidModel, match=r"gemma_root .*nowhere does not exist"):
        parsed("--gemma-root", str(tmp_path / "nowhere")).check()
    with pytest.raises(InvalidModel, match="No model files were given"):
        parsed().check()
    with pytest.raises(InvalidInput, match="is not a folder"):
        parsed("--input-dir", str(tmp_path / "nowhere"), "--model-dir", str(tmp_path)).check()
    with pytest.raises(InvalidInput, match="demo serves its own model, which is no distilled one"):
        parsed("--demo", "--distilled-checkpoint").check()
    with pytest.raises(InvalidRequest, match="vram_budget 'much' is not an amount"):
        parsed("--vram-budget", "much").check()
    with pytest.raises(InvalidRequest, match="vram_headroom 'some' is not an amount"):
        parsed("--vram-headroom", "some").check()
