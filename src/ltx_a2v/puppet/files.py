"""One small file that ships <-> the files of an original checkpoint.

The shipped file holds every tensor of every file under `<file>|<tensor>`, large ones in 8 bits with a scale per row
(`...|scale`), and in its metadata the files' own metadata and the text files. Unpacked, everything is bfloat16, in the
layout that the 22B model has.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidModel, InvalidOutput

VERSION = "2.3-puppet.1"
SHIPPED = Path(__file__).parent / "puppet.safetensors"
ROUNDED_FROM = 4096
"""Elements from which a tensor of two or more dimensions is kept in 8 bits."""
_SCALE = "|scale"


def ensure_puppet(folder: Path, shipped: Path = SHIPPED) -> ModelPaths:
    """The model in `folder / VERSION`, unpacked where it is not there yet.

    Raises `InvalidModel` when the shipped file is missing or damaged, `InvalidOutput` when the folder cannot be
    written.
    """
    complete = folder / VERSION
    part = folder / f"{VERSION}.{os.getpid()}.part"
    try:
        if not complete.is_dir():
            unpack(shipped, part)
            _move(part, complete)
    except OSError as error:
        raise InvalidOutput(
            f"The puppet model cannot be kept in {folder} ({error.strerror}); set LTX_A2V_CACHE_DIR to a folder that "
            "can be written."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ModelPaths.discover(complete)


def _move(part: Path, complete: Path) -> None:
    try:
        part.rename(complete)
    except OSError:
        if not complete.is_dir():  # else another process was first
            raise


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
    shipped.write_bytes(save(tensors, {"files": json.dumps(metadata), "texts": json.dumps(texts)}))


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


def _tensors_of(file: safe_open, name: str) -> dict[str, Tensor]:
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
