"""`ltx-a2v quantize --text-encoder`: the folder that it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.cli.main import main
from ltx_a2v.conversion.text_encoder import quantize_text_encoder
from ltx_a2v.errors import InvalidMode, InvalidModel
from ltx_a2v.events import StepFinished
from ltx_a2v.settings.loading import LoadOptions


def quantize(gemma: Path, output: Path, mode: str = "int4", *more: str) -> list[str]:
    return ["quantize", "--gemma-root", str(gemma), "--text-encoder", mode, "--output-path", str(output), *more]


@pytest.fixture(scope="session")
def quantized(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    folder = tmp_path_factory.mktemp("quantized") / "gemma-int4"
    list(quantize_text_encoder(model.gemma_root, "int4", folder))
    return replace(model, gemma_root=folder)


def pieces(paths: ModelPaths, mode: str | None, dtype: torch.dtype) -> list[torch.Tensor]:
    """All that is loaded of the text encoder, as bytes."""
    options = LoadOptions(text_encoder_quantization=mode)
    loader = A2VPipeline.open(paths, device="cpu", dtype=dtype, options=options).model.loaders["text_encoder"]
    rest, blocks = loader.blueprint.split(loader.build())
    loaded = []
    for piece in (rest, *blocks):
        flat = torch.zeros(piece.nbytes, dtype=torch.uint8)
        loader.fetch(piece, flat)
        loaded.append(flat)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["int4", "bnb-nf4"])
def test_the_weights_are_those_of_quantizing_at_load(
    model: ModelPaths, tmp_path: Path, mode: str, dtype: torch.dtype
) -> None:
    if mode == "bnb-nf4":
        pytest.importorskip("bitsandbytes")
    list(quantize_text_encoder(model.gemma_root, mode, tmp_path / "gemma"))
    written = pieces(replace(model, gemma_root=tmp_path / "gemma"), None, dtype)
    assert all(map(torch.equal, written, pieces(model, mode, dtype)))


def test_the_video_is_that_of_quantizing_at_load(
    model: ModelPaths, quantized: ModelPaths, small_request: GenerationRequest
) -> None:
    def video(paths: ModelPaths, mode: str | None) -> bytes:
        options = LoadOptions(text_encoder_quantization=mode, prompt_cache=False)
        A2VPipeline.open(paths, device="cpu", options=options).run(small_request)
        return small_request.output_path.read_bytes()

    expected = video(model, "int4")
    assert video(quantized, None) == expected
    assert video(quantized, "int4") == expected
    assert video(model, "none") != expected


def test_layers_lie_in_execution_order_and_nothing_else_is_in_the_folder(
    model: ModelPaths, quantized: ModelPaths
) -> None:
    folder = quantized.gemma_root
    assert {path.name for path in folder.iterdir()} == {path.name for path in model.gemma_root.iterdir()}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ltx_a2v_quantization"]) == {"mode": "int4", "keep_bf16_blocks": []}
    names = list(SafetensorsFile.open(folder / "model.safetensors").tensors)
    layers = [int(name.split(".layers.")[1].split(".")[0]) for name in names if ".layers." in name]
    assert layers == sorted(layers)
    assert set(layers) == {0, 1, 2}


def test_from_the_command_line(model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(quantize(model.gemma_root, tmp_path / "gemma", "int4", "--device", "cpu", "--report", "json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_path"] == str(tmp_path / "gemma")
    assert report["bytes_after"]["text encoder"] < 0.6 * report["bytes_before"]["text encoder"]
    assert report["kinds"]["self_attn.q_proj"]["layers"] == 3


@pytest.mark.parametrize("stop", ["close", "throw"])
def test_interrupted_there_is_no_folder(model: ModelPaths, tmp_path: Path, stop: str) -> None:
    work = quantize_text_encoder(model.gemma_root, "int4", tmp_path / "gemma")
    next(event for event in work if isinstance(event, StepFinished))
    assert [path.name for path in tmp_path.iterdir()] == ["gemma.part"]
    if stop == "close":
        work.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            work.throw(KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


def test_mistakes(model: ModelPaths, quantized: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gemma, output = model.gemma_root, tmp_path / "gemma"
    checkpoint = ["--checkpoint-path", str(model.checkpoint)]
    for arguments, says in (
        (quantize(gemma, output, "int8"), "no text encoder quantization 'int8': choose one of none, int4"),
        (quantize(gemma, output, "none"), "choose one of int4"),
        (quantize(quantized.gemma_root, output), "quantized already, as int4: give the bf16 text encoder"),
        (quantize(gemma, gemma), "exists already; give a folder that does not exist"),
        (quantize(gemma, tmp_path / "missing" / "gemma"), "cannot be written"),
        (quantize(tmp_path / "no", output), "does not exist"),
        (quantize(gemma, output, "int4", *checkpoint), "one per run; given: --checkpoint-path, --gemma-root, --text"),
        (quantize(gemma, output, "int4", "--keep-bf16-blocks", "1"), "given: --keep-bf16-blocks, --gemma-root"),
        (["quantize", "--output-path", str(output)], "given: none of them"),
        (["quantize", *checkpoint, "--output-path", str(output)], "given: --checkpoint-path."),
    ):
        assert main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err
        assert len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["none", "bnb-nf4"])
def test_another_mode_than_the_folders(quantized: ModelPaths, mode: str) -> None:
    with pytest.raises(InvalidMode, match="is quantized as int4: use text_encoder_quantization int4 or leave it out"):
        A2VPipeline.open(quantized, device="cpu", options=LoadOptions(text_encoder_quantization=mode))


def test_metadata_that_cannot_be_right(model: ModelPaths, quantized: ModelPaths, tmp_path: Path) -> None:
    """A checkpoint's mode, and quantized weights whose metadata are lost."""
    for said, says in (('"mode": "int8"', "does not know"), ('"mode": "bnb-nf4"', "does not fit its config")):
        folder = Path(shutil.copytree(quantized.gemma_root, tmp_path / said.replace('"', "")))
        raw = (folder / "model.safetensors").read_bytes()
        header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
        changed = header.replace(rb"\"mode\": \"int4\"", said.replace('"', r"\"").encode()).rstrip()
        changed += b" " * (-len(changed) % 8)
        (folder / "model.safetensors").write_bytes(
            len(changed).to_bytes(8, "little") + changed + raw[8 + len(header) :]
        )
        with pytest.raises(InvalidModel, match=says):
            A2VPipeline.open(replace(model, gemma_root=folder), device="cpu")
