"""A pipeline that takes the same calls as the real one and makes a tiny mp4. The prompt says what goes wrong."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
from PIL import Image

from ltx_a2v.errors import BudgetTooSmall, InvalidAudio, InvalidOutput
from ltx_a2v.events import (
    Done,
    Event,
    GenerationResult,
    Notice,
    PhaseFinished,
    PhaseStarted,
    Previewed,
    StepFinished,
    WindowStarted,
)
from ltx_a2v.request import DEFAULTS, FAST_STEPS, GenerationRequest, fit_num_frames, frame_size
from ltx_a2v.settings.model import ModelSettings

PHASE_STEPS = {"load_audio": 0, "encode_prompt": 0, "encode_audio": 0, "stage_1": -1, "stage_2": 3, "decode": 2}
STEP_SECONDS = 0.002


def jpeg_of_one_colour() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (48, 32), (90, 120, 60)).save(out, "JPEG")
    return out.getvalue()


PREVIEW = jpeg_of_one_colour()


def open_pipeline(settings: ModelSettings) -> FakePipeline:
    print("a library prints this on standard output")
    return FakePipeline()


class FakePipeline:
    """Words in the prompt: `slow=SECONDS` per step, `slow-phase=SECONDS` for a phase without steps, `crash-at=PHASE`,
    `fail-at=PHASE`, `tell-a-path`, `hang`, `hang-once=FILE`, `cuda-error`, `device-full`, `python-error`, `disk-full`,
    `no-room` (for ever) and `no-room-until=FILE`."""

    keep = "nothing"
    device = "cpu"

    def plan(self, request: GenerationRequest) -> object:
        if "no-room" in request.prompt and not _exists(request.prompt):
            raise BudgetTooSmall("The smallest plan needs 5.00 GiB; 1.00 GiB is free.")
        return None

    def plan_for(self, request: GenerationRequest) -> SimpleNamespace:
        """A byte per pixel and frame; 4096 pixels a side are too many."""
        if 4096 in (request.width, request.height):
            raise BudgetTooSmall("The smallest plan needs 5.00 GiB; 1.00 GiB is free.")
        return SimpleNamespace(peak=request.width * request.height * int(request.num_frames))

    def prepare(self, request: GenerationRequest | None = None) -> None:
        time.sleep(_number(request.prompt if request else "", "slow-phase", STEP_SECONDS))

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        partial = request.output_path.with_suffix(".part")
        partial.write_bytes(b"half")
        try:
            yield from self._generate(request)
        finally:
            partial.unlink()

    def _generate(self, request: GenerationRequest) -> Iterator[Event]:
        began, phases = time.monotonic(), {}
        seconds = _number(request.prompt, "slow", STEP_SECONDS)
        if windows := int(_number(request.prompt, "windows", 0)):
            yield from self._windows(request, windows)
        for phase, steps in PHASE_STEPS.items():
            steps = stage_1_steps(request) if steps < 0 else steps
            yield PhaseStarted(phase, steps)
            _go_wrong(request, phase)
            time.sleep(0 if steps else _number(request.prompt, "slow-phase", 0))
            for step in range(1, steps + 1):
                time.sleep(seconds)
                if request.previews and step == 1:
                    yield Previewed(phase, step, PREVIEW)
                yield StepFinished(phase, step, steps)
            phases[phase] = steps * seconds
            yield PhaseFinished(phase, phases[phase], 1.5, 2.0)
        if request.audio.stat().st_size < 100:
            yield Notice("The audio is short.")
        frames = fit_num_frames(2.0, request.frame_rate) if request.num_frames == "auto" else request.num_frames
        write_video(request, frames)
        elapsed = time.monotonic() - began
        yield Done(
            GenerationResult(
                request.output_path,
                *frame_size(request, None, DEFAULTS.sizes),
                frames,
                request.frame_rate,
                request.seed,
                elapsed,
                2.0,
                phases,
                "2.3.0",
                request.quality,
                details={"marks": {"id": f"urn:uuid:{uuid.uuid4()}", "signed": True}},
            )
        )

    def _windows(self, request: GenerationRequest, windows: int) -> Iterator[Event]:
        """Each takes half a second, unless an earlier attempt made it; the last one may hang."""
        assert request.work_dir is not None
        request.work_dir.mkdir(parents=True, exist_ok=True)
        for window in range(windows):
            segment = request.work_dir / f"window-{window:03d}.mp4"
            yield WindowStarted(window + 1, windows, segment.exists())
            if segment.exists():
                continue
            if window + 1 == windows and "last-hangs-once" in request.prompt and _is_first(f"hang-once={segment}.hung"):
                time.sleep(600)
            for step in range(1, 6):
                time.sleep(0.1)
                yield StepFinished("stage_1", step, 5)
            write_video(request.model_copy(update={"output_path": segment}), 9)


def stage_1_steps(request: GenerationRequest) -> int:
    return FAST_STEPS if request.quality == "fast" else request.num_inference_steps


def write_video(request: GenerationRequest, frames: int) -> None:
    """One colour per seed, a sixteenth of the size."""
    with av.open(str(request.output_path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(request.frame_rate).limit_denominator(1000))
        width, height = (side // 4 for side in frame_size(request, None, DEFAULTS.sizes))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        picture = np.full((height, width, 3), request.seed % 256, np.uint8)
        for _ in range(min(frames, 9)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def _go_wrong(request: GenerationRequest, phase: str) -> None:
    prompt = request.prompt
    if f"crash-at={phase}" in prompt:
        os.kill(os.getpid(), signal.SIGSEGV)
    if f"fail-at={phase}" in prompt:
        raise InvalidAudio("The audio cannot be decoded: it holds no sound.")
    if "tell-a-path" in prompt:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(request.audio))
    if "cuda-error" in prompt:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nsecond line")
    if "device-full" in prompt:
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.")
    if "python-error" in prompt:
        raise KeyError("shape")
    if "disk-full" in prompt:
        cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise InvalidOutput(f"{request.output_path} cannot be written: {cause.strerror}.") from cause
    if "hang-once" in prompt and _is_first(prompt):
        time.sleep(600)
    if re.search(r"\bhang\b(?!-once)", prompt):
        time.sleep(600)


def _is_first(prompt: str) -> bool:
    match = re.search(r"hang-once=(\S+)", prompt)
    assert match is not None
    try:
        Path(match[1]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _exists(prompt: str) -> bool:
    match = re.search(r"no-room-until=(\S+)", prompt)
    return match is not None and Path(match[1]).exists()


def _number(prompt: str, word: str, default: float) -> float:
    match = re.search(rf"{word}=(\d+(?:\.\d+)?)", prompt)
    return float(match[1]) if match else default
