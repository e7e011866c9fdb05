"""Encoded prompts on disk: a folder of files, each named by the hash of all that its content depends on.

A file is written under a temporary name and renamed, so another process sees a complete file or none. It contains its
key, so a file under a wrong name is detected. A damaged file is removed and counts as absent. The folder is kept below
a size: the least recently used files are removed first, by their times, which a hit updates.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import InvalidModel
from ltx_a2v.networks.text import Context
from ltx_a2v.settings.defaults import PROMPT_CACHE_BYTES

PART = ".part"
PART_LIFETIME_NS = 600 * 10**9
"""A part older than this, in seconds, is from a killed process: writing 12 MB does not take ten minutes."""


class EncodedPrompt(NamedTuple):
    """The context of a prompt, and whether the prompt was cut to the tokens that fit."""

    context: Context
    truncated: bool


class PromptCache:
    """The cache folder, kept below `limit` bytes."""

    def __init__(self, folder: Path, limit: int = PROMPT_CACHE_BYTES) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, key: str, device: torch.device) -> EncodedPrompt | None:
        """The prompt stored under `key`, on `device`, or None."""
        path = self._path(key)
        with suppress(OSError):
            try:
                prompt = _read(path, key)
                os.utime(path)
                return EncodedPrompt(Context(*(tensor.to(device) for tensor in prompt.context)), prompt.truncated)
            except InvalidModel:
                path.unlink()
        return None

    def put(self, key: str, prompt: EncodedPrompt) -> None:
        """Raises `OSError` where the folder cannot be written."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=PART)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_serialized(prompt, key))
            Path(name).replace(self._path(key))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._shrink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _shrink(self) -> None:
        """Remove the files used longest ago, and parts that a killed process left."""
        kept, stale = 0, time.time_ns() - PART_LIFETIME_NS
        for used, size, path in sorted(self._files(), reverse=True):
            part = path.suffix == PART
            kept += 0 if part else size
            if used < stale if part else kept > self.limit:
                path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[int, int, Path]]:
        """(time of the last use, size, path)"""
        files = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process makes room too
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        return files


def _serialized(prompt: EncodedPrompt, key: str) -> bytes:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in prompt.context._asdict().items()}
    return save(tensors, {"key": key, "truncated": str(prompt.truncated), "digest": _digest(prompt.context)})


def _read(path: Path, key: str) -> EncodedPrompt:
    """Raises `OSError` where there is no such file, `InvalidModel` where it is not what was written under `key`."""
    path.stat()
    try:
        file = SafetensorsFile.open(path)
        context = Context(**{name: read_tensor(entry) for name, entry in file.tensors.items()})
        truncated, digest = file.metadata["truncated"] == "True", file.metadata["digest"]
    except (TypeError, KeyError, ValueError, RuntimeError):
        raise InvalidModel(f"{path} is not an encoded prompt.") from None
    if digest != _digest(context):
        raise InvalidModel(f"{path} is damaged.")
    if file.metadata.get("key") != key:
        raise InvalidModel(f"{path} is another prompt's file.")
    return EncodedPrompt(context, truncated)


def _digest(context: Context) -> str:
    digest = hashlib.sha256()
    for tensor in context:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
