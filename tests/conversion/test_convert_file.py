"""`ltx-a2v quantize`: the file that it writes, what it reports, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.cli.main import main
from ltx_a2v.conversion.convert import quantize_file
from ltx_a2v.errors import InvalidMode, InvalidModel, MissingExtra
from ltx_a2v.events import StepFinished
from ltx_a2v.settings.loading import LoadOptions

BLOCK = "model.diffusion_model.transformer_blocks.{}."


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On small tensors and a busy machine a second thread waits longer than it works."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def quantized(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    """The miniature in int8, block 1 in bf16."""
    path = tmp_path_factory.mktemp("quantized") / "int8.safetensors"
    list(quantize_file(model.checkpoint, "int8", path, frozenset({1})))
    return replace(model, checkpoint=path)


def quantize(model: ModelPaths, output: Path, mode: str = "int8", *more: str) -> list[str]:
    files = ["--checkpoint-path", str(model.checkpoint), "--output-path", str(output)]
    return ["quantize", *files, "--transformer-quantization", mode, "--device", "cpu", *more]


def test_every_tensor_is_there_and_only_covered_ones_change(model: ModelPaths, quantized: ModelPaths) -> None:
    before, after = load_file(model.checkpoint), load_file(quantized.checkpoint)
    changed = {name for name in before if before[name].dtype != after[name].dtype}
    assert len(changed) == 3 * 28 + 2 + 2 * 2 * 6  # three blocks, text projections, two connectors of two blocks
    assert not any(name.startswith(BLOCK.format(1)) for name in changed)
    for name in before.keys() - changed:
        assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)), name
    scales = {re.sub(r"\.weight$", ".weight_scale", name) for name in changed}
    assert after.keys() - before.keys() == scales


def test_the_file_says_what_it_is(model: ModelPaths, quantized: ModelPaths) -> None:
    with safe_open(model.checkpoint, "pt") as before, safe_open(quantized.checkpoint, "pt") as after:
        metadata = dict(after.metadata())
        assert json.loads(metadata.pop("ltx_a2v_quantization")) == {"mode": "int8", "keep_bf16_blocks": [1]}
        assert metadata == before.metadata()


def test_blocks_lie_in_execution_order(quantized: ModelPaths) -> None:
    names = list(SafetensorsFile.open(quantized.checkpoint).tensors)
    blocks = [int(found[1]) for name in names if (found := re.match(BLOCK.format(r"(\d+)"), name))]
    first = next(i for i, name in enumerate(names) if name.startswith(BLOCK.format(0)))
    assert blocks == sorted(blocks)
    assert set(blocks) == {0, 1, 2, 3}
    assert all(".transformer_blocks." in name for name in names[first : first + len(blocks)])
    weight = names.index(BLOCK.format(2) + "attn1.to_q.weight")
    assert names[weight + 1].endswith("attn1.to_q.weight_scale")


@pytest.mark.parametrize("stop", ["close", "throw"])
def test_interrupted_there_is_no_file(model: ModelPaths, tmp_path: Path, stop: str) -> None:
    work = quantize_file(model.checkpoint, "int8", tmp_path / "q.safetensors")
    next(event for event in work if isinstance(event, StepFinished) and event.step == 3)
    assert [path.name for path in tmp_path.iterdir()] == ["q.safetensors.part"]
    if stop == "close":
        work.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            work.throw(KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


def test_report(model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The errors are those of the written weights."""
    output = tmp_path / "q.safetensors"
    assert main(quantize(model, output, "fp8-scaled", "--keep-bf16-blocks", "0,2-3", "--report", "json")) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)

    assert "quantize: " in err
    assert report["output_path"] == str(output)
    assert report["bytes_after"]["others"] == report["bytes_before"]["others"]
    for when, path in (("before", model.checkpoint), ("after", output)):
        stored = sum(entry.nbytes for entry in SafetensorsFile.open(path).tensors.values())
        assert sum(report[f"bytes_{when}"].values()) == stored
    layer = BLOCK.format(1) + "audio_ff.net.2.weight"
    original, stored = load_file(model.checkpoint)[layer].float(), load_file(output)
    written = stored[layer].float() * stored[f"{layer}_scale"][:, None]
    expected = float((written - original).norm() / original.norm())
    assert report["kinds"]["audio_ff.net.2"] == {"layers": 1, "relative_error": pytest.approx(expected, rel=1e-5)}
    assert report["kinds"].keys() >= {"attn1.to_q", "ff.net.0.proj", "video_connector", "audio_text_proj_in"}
    worst = [layer["relative_error"] for layer in report["worst"]]
    assert len(worst) == 10
    assert worst == sorted(worst, reverse=True)
    assert worst[0] >= max(kind["relative_error"] for kind in report["kinds"].values())
    kinds = report["kinds"]
    assert 0.02 < kinds["attn1.to_q"]["relative_error"] < 0.03  # fp8
    assert 0.003 < kinds["video_connector"]["relative_error"] < 0.005  # int8


def test_report_as_text(model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "q.safetensors"
    assert main(quantize(model, output)) == 0
    brief = capsys.readouterr().out
    assert main(quantize(model, output, "int8", "--report", "--overwrite")) == 0
    full = capsys.readouterr().out

    assert brief.startswith(f"{output}: int8, ")
    assert brief.count("\n") == 1
    assert full.startswith(brief)
    assert re.search(r"^attn1\.to_q +4 +0\.00\d{3}$", full, re.MULTILINE)
    assert len(full.split("worst layers")[1].strip().splitlines()) == 1 + 10


def test_mistakes(model: ModelPaths, quantized: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, link = tmp_path / "q.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(model.checkpoint)
    (tmp_path / "folder").mkdir()
    for arguments, says in (
        (quantize(model, output, "int7"), "no quantization mode 'int7': did you mean 'int8'?"),
        (quantize(model, output, "none"), "choose one of fp8-cast"),
        (quantize(model, output, "int8", "--keep-bf16-blocks", "4"), "Block 4 cannot be kept"),
        (quantize(model, output, "int8", "--keep-bf16-blocks", "x"), "'x' is not a list of blocks"),
        (quantize(model, output, "int8", "--device", "tpu"), "tpu"),
        (quantize(quantized, output), "quantized already, as int8: give the bf16 checkpoint"),
        (quantize(quantized, output, "fp8-cast"), "quantized already, as int8: give the bf16 checkpoint"),
        (quantize(replace(model, checkpoint=tmp_path / "no"), output), "does not exist"),
        (quantize(replace(model, checkpoint=model.distilled_lora), output), "no 'config'"),
        (quantize(model, tmp_path / "folder"), "is a folder"),
        (quantize(model, tmp_path / "missing" / "q.safetensors"), "does not exist"),
        (quantize(model, tmp_path / "q.bin"), "must end in .safetensors"),
        (quantize(model, model.checkpoint), "is the checkpoint itself"),
        (quantize(model, link), "is the checkpoint itself"),
    ):
        assert main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err
        assert len(err.splitlines()) == 1, err
    assert {path.name for path in tmp_path.iterdir()} == {"link.safetensors", "folder"}


def test_a_missing_extra_names_its_command(model: ModelPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"EXTRAS=quanto` in a checkout"):
        next(quantize_file(model.checkpoint, "int8-quanto", tmp_path / "q.safetensors"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (LoadOptions(transformer_quantization="fp8-cast"), "is quantized as int8: use transformer_quantization int8"),
        (LoadOptions(transformer_quantization="none"), "is quantized as int8"),
        (LoadOptions(keep_bf16_blocks=frozenset({0})), "with 1 kept in bf16; leave keep_bf16_blocks out"),
    ],
)
def test_another_mode_than_the_files(quantized: ModelPaths, options: LoadOptions, says: str) -> None:
    with pytest.raises(InvalidMode, match=re.escape(says)):
        A2VPipeline.open(quantized, device="cpu", options=options)


def altered(quantized: ModelPaths, path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> ModelPaths:
    tensors = load_file(quantized.checkpoint)
    change(tensors)
    save_file(tensors, path, SafetensorsFile.open(quantized.checkpoint).metadata)
    return replace(quantized, checkpoint=path)


SCALE = BLOCK.format(2) + "attn1.to_q.weight_scale"
WEIGHT = BLOCK.format(2) + "attn1.to_q.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop(SCALE), f"lacks 1 tensor ({SCALE})"),
        (lambda tensors: tensors.update({SCALE: torch.ones(1)}), "weight_scale' has shape [1], the config says [128]"),
        (lambda tensors: tensors.update({SCALE: torch.ones(128, 1)}), "has shape [128, 1], the config says [128]"),
        (lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].bfloat16()}), "is torch.bfloat16, not torch.int8"),
        (lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].view(torch.uint8)}), "is not stored as it says"),
    ],
    ids=["no scale", "one scale", "matrix of scales", "bf16", "uint8"],
)
def test_a_damaged_quantized_file(
    quantized: ModelPaths, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    with pytest.raises(InvalidModel, match=re.escape(says)) as error:
        A2VPipeline.open(altered(quantized, tmp_path / "x.safetensors", change), device="cpu")
    assert str(error.value).count(". ") == 0


def test_a_truncated_quantized_file(quantized: ModelPaths, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(quantized.checkpoint.read_bytes()[:-100])
    with pytest.raises(InvalidModel, match="is truncated"):
        A2VPipeline.open(replace(quantized, checkpoint=path), device="cpu")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("int8", "damaged quantization metadata: 'int8'"),
        ('{"mode": "int8"}', "damaged"),
        ('{"mode": "int8", "keep_bf16_blocks": "12"}', "damaged"),
        ('{"mode": "int8", "keep_bf16_blocks": [1.5]}', "damaged"),
        ("[]", "damaged"),
        ('{"mode": "int3", "keep_bf16_blocks": []}', "quantized as 'int3', which this version does not know"),
        ('{"mode": "fp8-scaled", "keep_bf16_blocks": [1]}', "is not stored as it says"),
        ('{"mode": "int8", "keep_bf16_blocks": []}', "lacks 28 tensors (model.diffusion_model.transformer_blocks.1."),
    ],
)
def test_metadata_that_cannot_be_right(quantized: ModelPaths, tmp_path: Path, said: str, says: str) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {**SafetensorsFile.open(quantized.checkpoint).metadata, "ltx_a2v_quantization": said}
    save_file(load_file(quantized.checkpoint), path, metadata)
    with pytest.raises(InvalidModel, match=re.escape(says)):
        A2VPipeline.open(replace(quantized, checkpoint=path), device="cpu")
