"""The folder in which the finished windows of a long video are kept until it is complete.

    work.json                  which request and which model they belong to, and the prompt in its final words, since
                               an enhancer would find others the next time
    window-000.mp4             the frames that window 0 writes, without sound
    window-000.safetensors     what it hands on: `frames` uint8 [overlap, H, W, 3], `mean` and `std` [C]

A window is finished when both of its files are there, each of which appears by a rename, the second one last. So the
work can be killed at any moment and goes on with the first window that is not finished. The finished video has the same
bytes as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ltx_a2v.errors import InvalidOutput, InvalidRequest
from ltx_a2v.fitting import FittedRequest
from ltx_a2v.media.join import frames_of, join
from ltx_a2v.media.output_file import write_whole
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.media.video import Marks
from ltx_a2v.model.model import Model
from ltx_a2v.networks.video_vae import ChannelStatistics
from ltx_a2v.request import GenerationRequest
from ltx_a2v.windows import HandedOn, Window

_IDENTITY = "work.json"


class WorkDir:
    """One video's folder. Raises `InvalidOutput` where it cannot be written, `InvalidRequest` where it holds windows of
    another video."""

    def __init__(self, folder: Path, identity: str, prompt: str) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known = folder / _IDENTITY
            if not known.exists():
                write_whole(known, json.dumps({"video": identity, "prompt": prompt}).encode())
            if _read(known).get("video") != identity:
                raise ValueError
            for part in folder.glob("*.part"):  # of a run that was killed while it wrote
                part.unlink(missing_ok=True)
        except OSError as error:
            raise InvalidOutput(f"The work folder {folder} cannot be used: {error.strerror}.") from error
        except ValueError:
            reason = "holds windows of another request or model; choose another folder, or remove it"
            raise InvalidRequest("work_dir", str(folder), reason) from None

    def segment(self, window: Window) -> Path:
        """Where the window's video is, or will be."""
        return _segment(self.folder, window.index)

    def finish(self, window: Window, handed_on: HandedOn) -> None:
        """The window's video is complete. Raises `InvalidOutput` where the file system refuses."""
        colours = handed_on.colours
        tensors = {"frames": handed_on.frames.contiguous(), "mean": colours.mean, "std": colours.std}
        write_whole(self._handed_on(window), save(tensors))

    def finished(self, window: Window) -> HandedOn | None:
        """What a finished window hands on; None where it has to be made, or made again because a file is damaged."""
        if not self._handed_on(window).exists() or frames_of(self.segment(window)) != window.writes:
            return None
        try:
            with safe_open(self._handed_on(window), "pt") as file:
                frames, mean, std = (file.get_tensor(name) for name in ("frames", "mean", "std"))
        except (SafetensorError, OSError):
            return None
        return HandedOn(frames, ChannelStatistics(mean, std))

    def remove(self, windows: Sequence[Window]) -> None:
        """Remove the windows' files, and the folder unless it holds anything else."""
        for window in windows:
            self.segment(window).unlink(missing_ok=True)
            self._handed_on(window).unlink(missing_ok=True)
        (self.folder / _IDENTITY).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self.folder.rmdir()

    def _handed_on(self, window: Window) -> Path:
        return self.segment(window).with_suffix(".safetensors")


@contextmanager
def open_work_dir(folder: Path | None, identity: str, prompt: str, output: Path) -> Iterator[WorkDir]:
    """`folder`, which keeps its windows however this ends; without one a temporary folder next to `output`."""
    if folder is not None:
        with _alone_in(folder):
            yield WorkDir(folder, identity, prompt)
        return
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.absolute().parent))
    except OSError as error:
        raise InvalidOutput(f"The windows of {output} cannot be kept next to it: {error.strerror}.") from error
    try:
        yield WorkDir(made, identity, prompt)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def prompt_in(folder: Path, identity: str) -> str | None:
    """The final words that the windows in the folder are made with; None where it holds none of this video."""
    try:
        known = _read(folder / _IDENTITY)
    except (OSError, ValueError):
        return None
    prompt = known.get("prompt")
    return prompt if known.get("video") == identity and isinstance(prompt, str) else None


def _read(known: Path) -> dict[str, Any]:
    """Raises `ValueError` where it is not JSON, or no object."""
    content = json.loads(known.read_text())
    if not isinstance(content, dict):
        raise ValueError(content)
    return content


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No second process works in the folder meanwhile; the kernel ends this with the process. Not on Windows."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InvalidOutput(f"The work folder {folder} cannot be used: {error.strerror}.") from error
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "is in use by another process: wait for it, or choose another folder"
            raise InvalidRequest("work_dir", str(folder), reason) from None
        yield


def join_finished(request: GenerationRequest, folder: Path, finished: int, output: Path, marks: Marks | None) -> None:
    """Write the first `finished` windows of a video that is still being made, with their part of its sound."""
    segments = [_segment(folder, index) for index in range(finished)]
    seconds = sum(frames_of(segment) or 0 for segment in segments) / request.frame_rate
    join(segments, output, request.frame_rate, load_audio(request.audio, request.audio_start_time, seconds), marks)


def _segment(folder: Path, index: int) -> Path:
    return folder / f"window-{index:03d}.mp4"


def identity_of(fitted: FittedRequest, model: Model) -> str:
    """A digest of all that the frames depend on: the request in the user's words, its files' content, the model and how
    it computes."""
    options, paths = model.options, model.files.paths
    request = fitted.request.model_copy(update={"prompt": fitted.own_prompt})
    stats = [path.stat() for _, path in paths.described()]
    content = {
        "request": request.model_dump_json(exclude={"output_path", "work_dir", "check_sync", "mark_prompt"}),
        "files": [_digest(path) for path in (request.audio, *(picture.file for picture in request.pictures))],
        "windows": repr(fitted.windows),
        "model": [(status.st_size, status.st_mtime_ns) for status in stats],
        "modes": [model.transformer_policy.mode, model.text_policy.mode, str(model.dtype), model.device.type],
        "options": repr((options.loras, options.distilled_lora_strength, options.keep_bf16_blocks)),
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
