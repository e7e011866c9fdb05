"""The parts as the four files of an original checkpoint.

    python training/pack.py --output models/puppet                                  bfloat16, to look into
    python training/pack.py --output models/puppet --ship src/ltx_a2v/puppet/puppet.safetensors
    python training/pack.py --output models/puppet --restore src/ltx_a2v/puppet/puppet.safetensors

The last one goes back: it unpacks what ships and writes the parts, so that training can be resumed from them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from common import CHECKPOINTS
from common import save as save_part
from config import KEYS, MODEL, SECTIONS, UPSAMPLER
from safetensors.torch import load_file, save
from texts import build_gemma, gemma_config, tokenizer
from torch import Tensor

from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.miniature import MODEL_VERSION
from ltx_a2v.puppet import files as puppet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=CHECKPOINTS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ship", type=Path, help="also write the one small file that ships")
    parser.add_argument("--restore", type=Path, help="the file that ships, to be taken apart into --input")
    options = parser.parse_args()
    if options.restore:
        puppet.unpack(options.restore, options.output)
        take_apart(options.output, options.input)
        return
    pack(options.input, options.output)
    if options.ship:
        puppet.pack(options.output, options.ship)
        print(f"{options.ship.stat().st_size / 1e6:7.3f} MB  {options.ship}")
    for path in sorted(options.output.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size / 1e6:7.3f} MB  {path.relative_to(options.output)}")


def pack(parts: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    networks, video = load_file(parts / "transformer.safetensors"), load_file(parts / "video_vae.safetensors")
    video = {name: tensor for name, tensor in video.items() if not name.startswith("reader.")}
    tensors: dict[str, Tensor] = {}
    for key_map, module in (
        (KEYS.transformer, _below(networks, "transformer.")),
        (KEYS.connectors, _below(networks, "connectors.")),
        (KEYS.video_vae(MODEL.vae_stages), video),
        (KEYS.audio_encoder, load_file(parts / "audio_vae.safetensors")),
    ):
        tensors |= {key_map.to_file(name): tensor for name, tensor in module.items()}
    metadata = {"model_version": MODEL_VERSION, "config": json.dumps(SECTIONS)}
    _write(folder / "ltx-2.3-puppet.safetensors", tensors, metadata)
    lora = _below(load_file(parts / "lora.safetensors"), "transformer.")
    _write(folder / "ltx-2.3-puppet-distilled-lora.safetensors", {_lora_name(n): t for n, t in lora.items()})
    upsampler = load_file(parts / "upsampler.safetensors")
    _write(folder / "ltx-2.3-puppet-spatial-upscaler-x2.safetensors", upsampler, {"config": json.dumps(UPSAMPLER)})
    _write_gemma(folder / "gemma-puppet")


def take_apart(folder: Path, parts: Path) -> None:
    tensors = load_file(folder / "ltx-2.3-puppet.safetensors")
    vae = _named(tensors, KEYS.video_vae(MODEL.vae_stages))
    networks = {f"transformer.{n}": t for n, t in _named(tensors, KEYS.transformer).items()}
    networks |= {f"connectors.{n}": t for n, t in _named(tensors, KEYS.connectors).items()}
    lora = load_file(folder / "ltx-2.3-puppet-distilled-lora.safetensors")
    save_part(parts / "video_vae.safetensors", vae)
    save_part(parts / "audio_vae.safetensors", _named(tensors, KEYS.audio_encoder))
    save_part(parts / "transformer.safetensors", networks)
    save_part(parts / "lora.safetensors", {_from_lora_name(n): t for n, t in lora.items()})
    upsampler = load_file(folder / "ltx-2.3-puppet-spatial-upscaler-x2.safetensors")
    save_part(parts / "upsampler.safetensors", upsampler)


def _named(tensors: dict[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    return {ours: tensor for name, tensor in tensors.items() if (ours := key_map.to_module(name)) is not None}


def _from_lora_name(name: str) -> str:
    layer, _, side = name.partition(".lora_")
    return f"transformer.{KEYS.lora.to_module(layer)}.lora_{side}"


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _lora_name(name: str) -> str:
    layer, _, side = name.partition(".lora_")
    return f"{KEYS.lora.to_file(layer)}.lora_{side}"


def _write_gemma(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    prefixed = KeyMap(prefixes=(("language_model.model.", ""),))
    weights = {prefixed.to_file(n): t.to(torch.bfloat16) for n, t in build_gemma().state_dict().items()}
    _write(folder / "model.safetensors", weights, {"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": gemma_config(),
    }
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special}),
    ):
        (folder / name).write_text(json.dumps(content, indent=1))


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


if __name__ == "__main__":
    main()
