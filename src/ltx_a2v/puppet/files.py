"""One small file that ships <-> the files of an original checkpoint.

The shipped file holds every tensor of every file under `<file>|<tensor>`, large ones in 8 bits with a scale per row
(`...|scale`), and in its metadata the files' own metadata and the text files. Unpacked, everything is bfloat16, in the
layout that the 22B model has.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ltx_a2v.checkpoint.made_once import made_once
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import A2VError, InvalidModel
from ltx_a2v.puppet import SHIPPED, VERSION, check_shipped, digest_file

ROUNDED_FROM = 4096
"""Elements from which a tensor of two or more dimensions is kept in 8 bits."""
_SCALE = "|scale"


def ensure_puppet(folder: Path, shipped: Path = SHIPPED) -> ModelPaths:
    """The model in `folder / VERSION`, unpacked where it is not there yet.

    Raises `InvalidModel` when the shipped file is missing or damaged, `InvalidOutput` when the folder refuses.
    """
    check_shipped(shipped)
    return ModelPaths.discover(made_once(folder / VERSION, "puppet", lambda part: unpack(shipped, part)))


def pack(folder: Path, shipped: Path) -> None:
    """Write the model files in `folder` into one."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, dict[str, str]] = {}
    texts: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix != ".safetensors":
            texts[name] = path.read_text()
            continue
        with safe_open(path, "pt") as file:
            metadata[name] = file.metadata() or {}
            for key in list(file.keys()):
                tensors |= _rounded(f"{name}|{key}", file.get_tensor(key))
    content = save(tensors, {"files": json.dumps(metadata), "texts": json.dumps(texts)})
    shipped.write_bytes(content)
    digest_file(shipped).write_text(f"{hashlib.sha256(content).hexdigest()}  {shipped.name}\n")


def unpack(shipped: Path, folder: Path) -> None:
    """Write the model's files into `folder`, which must not be there."""
    try:
        with safe_open(shipped, "pt") as file:
            said = file.metadata()
            metadata, texts = json.loads(said["files"]), json.loads(said["texts"])
            contents = {name: _tensors_of(file, name) for name in metadata}
    except FileNotFoundError:
        raise InvalidModel(f"{shipped}, the puppet's weights, is missing; install ltx-a2v again.") from None
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise InvalidModel(f"{shipped}, the puppet's weights, is damaged; install ltx-a2v again.") from error
    folder.mkdir(parents=True)
    for name, text in texts.items():
        _parent(folder / name).write_text(text)
    for name, tensors in contents.items():
        # `save_file` would let nobody but the user read the file, whatever the umask says
        _parent(folder / name).write_bytes(save(tensors, metadata[name] or None))


def _rounded(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if tensor.ndim < 2 or tensor.numel() < ROUNDED_FROM:
        return {name: tensor.to(torch.bfloat16)}
    rows = tensor.float().flatten(1)
    scale = (rows.abs().amax(dim=1) / 127).clamp(min=1e-12)
    whole = (rows / scale[:, None]).round().to(torch.int8)
    return {name: whole.view(tensor.shape), name + _SCALE: scale}


def _tensors_of(file: Any, name: str) -> dict[str, Tensor]:
    keys = [key for key in list(file.keys()) if key.startswith(f"{name}|") and not key.endswith(_SCALE)]
    tensors = {}
    for key in keys:
        tensor = file.get_tensor(key)
        if tensor.dtype == torch.int8:
            scale = file.get_tensor(key + _SCALE)
            tensor = (tensor.float().flatten(1) * scale[:, None]).view(tensor.shape).to(torch.bfloat16)
        tensors[key.removeprefix(f"{name}|")] = tensor
    return tensors


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main() -> None:
    """For `puppet_paths`: unpack into a folder; an error goes to stdout as JSON."""
    try:
        ensure_puppet(Path(sys.argv[1]), Path(sys.argv[2]))
    except A2VError as error:
        sys.stdout.write(json.dumps(error.as_json()))


if __name__ == "__main__":
    main()
