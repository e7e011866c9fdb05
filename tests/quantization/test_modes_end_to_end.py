"""Every mode from a picture and a sound to latents, from the bf16 file and from a quantized one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance, ModelPaths
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.conversion.convert import quantize_file
from ltx_a2v.errors import InvalidMode, InvalidModel
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.model import Model
from ltx_a2v.settings.loading import LoadOptions, StyleLora
from tests.conftest import ROOT
from tests.large_model import write_large_model

DRIFT = {
    "int8": 0.04,
    "fp8-scaled": 0.07,
    "fp8-scaled-mm": 0.12,
    "fp8-cast": 0.07,
    "int8-quanto": 0.05,
    "fp8-quanto": 0.07,
    "int4-quanto": 0.25,
}
"""Bounds of each mode's relative difference from float32, after one step of each kind; about twice what it is."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On small tensors and a busy machine a second thread waits longer than it works."""
    torch.set_num_threads(1)


def latents(model: ModelPaths, folder: Path, options: LoadOptions | None = None) -> dict[str, Tensor]:
    path = folder / "latents.safetensors"
    request = GenerationRequest(
        prompt="A robot speaks to the camera.",
        image=ROOT / "examples" / "robot.png",
        image_crf=0,
        audio=ROOT / "examples" / "speech.wav",
        output_path=folder / "video.mp4",
        width=64,
        height=64,
        num_frames=9,
        num_inference_steps=1,
        guidance=Guidance(cfg=1, stg=0, modality=1),
        save_latents=path,
    )
    A2VPipeline.open(model, device="cpu", dtype=torch.float32, options=options).run(request)
    return load_file(path)


def relative(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).norm() / expected.norm())


@pytest.fixture(scope="session")
def unquantized(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    return latents(model, tmp_path_factory.mktemp("unquantized"))


def opened(model: ModelPaths, options: LoadOptions) -> Model:
    return Model.open(ModelFiles.open(model), torch.device("cpu"), torch.float32, options)


def weights(model: ModelPaths, options: LoadOptions) -> dict[str, Tensor]:
    """What a load of the transformer and the connectors holds, as bytes."""
    in_use = opened(model, options).within({})
    with in_use.transformer() as transformer, in_use.connectors(1) as connectors:
        return {
            f"{kind}.{name}": tensor.reshape(-1).view(torch.uint8).clone()
            for kind, module in (("transformer", transformer.module), ("connectors", connectors))
            for name, tensor in module.state_dict().items()
        }


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("mode", DRIFT)
def test_each_mode_from_both_files(
    mode: str, model: ModelPaths, unquantized: dict[str, Tensor], tmp_path: Path
) -> None:
    wanted = LoadOptions(transformer_quantization=mode)
    list(quantize_file(model.checkpoint, mode, tmp_path / "quantized.safetensors"))
    quantized = replace(model, checkpoint=tmp_path / "quantized.safetensors")

    converting = latents(model, tmp_path, wanted)
    assert same(latents(quantized, tmp_path), converting)
    for stage, tensor in converting.items():
        assert 0.001 < relative(tensor, unquantized[stage]) < DRIFT[mode], stage

    assert same(weights(model, wanted), weights(quantized, LoadOptions()))


def test_none_is_the_file_as_it_is(model: ModelPaths) -> None:
    assert same(weights(model, LoadOptions(transformer_quantization="none")), weights(model, LoadOptions()))


def test_files_of_fp8_scaled_and_fp8_scaled_mm_are_one(model: ModelPaths, tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    list(quantize_file(model.checkpoint, "fp8-scaled", path))
    options = LoadOptions(transformer_quantization="fp8-scaled-mm")
    assert same(weights(replace(model, checkpoint=path), options), weights(model, options))


def test_kept_blocks_and_no_others_stay(model: ModelPaths) -> None:
    def of(**options: object) -> dict[str, Tensor]:
        return weights(model, LoadOptions(**options))

    plain, all_int8 = of(), of(transformer_quantization="int8")
    kept = of(transformer_quantization="int8", keep_bf16_blocks=frozenset({0, 2}))
    blocks = tuple(f"transformer.transformer_blocks.{i}." for i in (0, 2))
    assert same(kept, {name: t for name, t in plain.items() if name.startswith(blocks)} | {
        name: t for name, t in all_int8.items() if not name.startswith(blocks)
    })  # fmt: skip
    assert not same(kept, all_int8)


LAYER = "transformer_blocks.2.attn2.to_k"
STRENGTHS = ((), (0.0,), (1.0,), (-0.5,), (0.25, 0.5))


@pytest.fixture(scope="module")
def styles(model: ModelPaths) -> dict[tuple[float, ...], Model]:
    """The same file once or twice, at some strength."""
    return {
        strengths: opened(model, LoadOptions(loras=tuple(StyleLora(model.distilled_lora, s) for s in strengths)))
        for strengths in STRENGTHS
    }


@pytest.mark.parametrize("mode", ["none", *DRIFT])
def test_lora_with_every_mode(mode: str, model: ModelPaths, styles: dict[tuple[float, ...], Model]) -> None:
    inputs = torch.randn(1, 20, 128)
    pair = load_file(model.distilled_lora)
    name = f"diffusion_model.{LAYER}.lora_{{}}.weight"
    delta = inputs @ pair[name.format("A")].float().T @ pair[name.format("B")].float().T

    outputs = {}
    with opened(model, LoadOptions(transformer_quantization=mode)).within({}).transformer() as transformer:
        for strengths, styled in styles.items():
            with styled.within({}).adapted(transformer, distilled=False, sweeps=1):
                outputs[strengths] = transformer.module.get_submodule(LAYER)(inputs)

    base = outputs.pop(())
    assert torch.equal(outputs.pop((0.0,)), base)
    assert float(delta.norm()) > 0.01 * float(base.norm())
    for strengths, output in outputs.items():
        # the strength is multiplied into one of the factors, in bf16
        assert relative(output - base, sum(strengths) * delta) < 0.01, strengths


MERGING = ("none", "int8", "fp8-scaled", "fp8-cast")
"""Modes that multiply by a weight in the working dtype; in the others a LoRA stays separate, however many tokens."""
CROSSOVER = 64
"""Of a layer of 128 x 128."""


@pytest.mark.parametrize("tokens", [CROSSOVER, CROSSOVER + 1])
@pytest.mark.parametrize("mode", ["none", *DRIFT])
def test_a_lora_is_merged_where_tokens_make_it_cheaper(
    mode: str, tokens: int, model: ModelPaths, styles: dict[tuple[float, ...], Model]
) -> None:
    pair = load_file(model.distilled_lora)
    down, up = (pair[f"diffusion_model.{LAYER}.lora_{factor}.weight"].float() for factor in "AB")
    inputs = torch.randn(1, tokens, 128)
    model_in_mode = opened(model, LoadOptions(transformer_quantization=mode)).within({})
    with torch.inference_mode(), model_in_mode.transformer() as transformer:
        layer = transformer.module.get_submodule(LAYER)
        stored = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        base = layer(inputs)
        weight = layer.dequantize(torch.float32)
        merged = F.linear(inputs, torch.addmm(weight, up, down), layer.bias.to(inputs.dtype))
        separate = torch.addmm(base[0], inputs[0] @ down.t(), up.t())[None]
        assert not torch.equal(merged, separate)

        for _ in range(2):
            with styles[(1.0,)].within({}).adapted(transformer, distilled=False, sweeps=1):
                output = layer(inputs)
            assert torch.equal(output, merged if tokens > CROSSOVER and mode in MERGING else separate)
            assert torch.equal(layer(inputs), base), "the LoRA is gone"
        assert all(torch.equal(tensor, stored[name]) for name, tensor in layer.state_dict().items())


def test_a_style_lora_changes_both_stages(model: ModelPaths, unquantized: dict[str, Tensor], tmp_path: Path) -> None:
    """The file of stage 2's own LoRA may be given as a style too: each keeps its strength."""

    def styled(strength: float) -> dict[str, Tensor]:
        return latents(model, tmp_path, LoadOptions(loras=(StyleLora(model.distilled_lora, strength),)))

    assert same(styled(0.0), unquantized)
    for stage, tensor in styled(1.0).items():
        assert relative(tensor, unquantized[stage]) > 0.01


def prequantized(model: ModelPaths, path: Path) -> ModelPaths:
    """Like an official fp8 checkpoint: the covered weights of blocks 1 to 3 with scalar scales, and no word of it."""
    tensors = load_file(model.checkpoint)
    for name in list(tensors):
        covered = name.endswith((".to_q.weight", ".to_v.weight", ".to_out.0.weight", "ff.net.0.proj.weight"))
        if covered and ".transformer_blocks." in name and "transformer_blocks.0" not in name:
            scale = tensors[name].float().abs().max() / 448
            tensors[name] = (tensors[name].float() / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale"] = scale
            tensors[name.replace("weight", "input_scale")] = torch.tensor(20 / 448)
    save_file(tensors, path, SafetensorsFile.open(model.checkpoint).metadata)
    return replace(model, checkpoint=path)


def test_a_checkpoint_that_comes_quantized(model: ModelPaths, unquantized: dict[str, Tensor], tmp_path: Path) -> None:
    official = prequantized(model, tmp_path / "checkpoint.safetensors")
    upcast = latents(official, tmp_path)
    multiplied = latents(official, tmp_path, LoadOptions(transformer_quantization="fp8-scaled-mm"))

    assert 0.001 < relative(upcast["stage_1"], unquantized["stage_1"]) < 0.07
    assert relative(upcast["stage_1"], unquantized["stage_1"]) < relative(multiplied["stage_1"], unquantized["stage_1"])
    assert relative(multiplied["stage_1"], unquantized["stage_1"]) < 0.15


def test_what_comes_quantized_is_not_quantized_again(model: ModelPaths, tmp_path: Path) -> None:
    official = prequantized(model, tmp_path / "checkpoint.safetensors")
    with pytest.raises(InvalidMode, match=r"comes quantized to fp8 .* use fp8-scaled or fp8-scaled-mm .* not int8"):
        opened(official, LoadOptions(transformer_quantization="int8"))
    with pytest.raises(InvalidMode, match="leave keep_bf16_blocks out"):
        opened(official, LoadOptions(keep_bf16_blocks=frozenset({0})))
    with pytest.raises(InvalidModel, match="quantized already, to fp8 with scales: give the bf16 checkpoint"):
        next(quantize_file(official.checkpoint, "int8", tmp_path / "q.safetensors"))


MEASURE = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ltx_a2v import ModelPaths
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.model import Model
from ltx_a2v.settings.loading import LoadOptions
from ltx_a2v.conversion.convert import quantize_file

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

def from_here():
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    return status("VmRSS")

torch.set_num_threads(2)
paths = ModelPaths(*map(Path, sys.argv[1:5]))
model = Model.open(
    ModelFiles.open(paths), torch.device("cpu"), torch.bfloat16, LoadOptions(transformer_quantization="int8")
)
start = from_here()
with model.within({}).transformer():
    loading = status("VmHWM") - start
start = from_here()
list(quantize_file(paths.checkpoint, "int8", Path(sys.argv[5])))
sys.stdout.write(f"{loading} {status('VmHWM') - start}")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured with Linux's /proc")
def test_memory_while_loading_and_while_quantizing(model: ModelPaths, tmp_path: Path) -> None:
    large = write_large_model(model, tmp_path)
    with_transformer = SafetensorsFile.open(large.checkpoint)
    size = sum(t.nbytes for name, t in with_transformer.tensors.items() if name.startswith("model.diffusion_model."))
    files = (
        large.checkpoint,
        large.distilled_lora,
        large.spatial_upsampler,
        large.gemma_root,
        tmp_path / "q.safetensors",
    )
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loading, quantizing = map(int, done.stdout.split())

    assert size > 2 * 2**30
    assert loading < 0.55 * size + 2**29
    assert quantizing < 2**29
