"""A request fitted to its files and to the model: the number of frames, the perturbed blocks, the picture's pixels.

Every mistake that can be found without weights is found here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ltx_a2v import puppet
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.diffusion.guidance import UNGUIDED, passes_of
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.errors import InvalidAudio, InvalidRequest, named
from ltx_a2v.media.label import label_of
from ltx_a2v.media.output_file import check_output_file, check_overwrites_nothing
from ltx_a2v.media.part import CONTEXT, check_source, frames_of_range
from ltx_a2v.media.picture import decode_image, fit_image
from ltx_a2v.media.read_video import read_part
from ltx_a2v.media.sound.decode import audio_seconds
from ltx_a2v.media.sync import frame_loudness
from ltx_a2v.media.video import check_output
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.networks import audio_vae
from ltx_a2v.networks.upsampler import check_size
from ltx_a2v.request import (
    DEFAULTS,
    TEMPORAL_FACTOR,
    GenerationRequest,
    Guidance,
    Quality,
    Retake,
    check_quality,
    fit_num_frames,
    frame_size,
)
from ltx_a2v.settings.defaults import MAX_SECONDS, MAX_WINDOW_FRAMES
from ltx_a2v.versions import LatentLayout
from ltx_a2v.windows import GUARD, Window, plan_windows

TOLERATED_SECONDS = 0.05
"""Sound after the longest video that is not worth an error: a frame."""
ANCHOR_FRAME = -8
"""Where later windows are shown the video's first picture: before their first frame, so that no frame must equal it."""
FADED = 4
"""Frames at either end of such a part in which the old picture becomes the new one."""
TOLERATED_CROP = 0.02
"""Share of a picture's side that may be cropped without a notice."""


@dataclass(frozen=True)
class VideoShape:
    """The properties of a request that its memory and time depend on; in quality fast, `guidance` is `UNGUIDED`."""

    width: int
    height: int
    num_frames: int
    frame_rate: float
    guidance: Guidance
    pictures: tuple[int, ...]
    """The frame of each picture."""
    latents: LatentLayout
    quality: Quality = "standard"
    overlap: int = 0
    """Frames at the beginning that the window before made."""

    @property
    def seconds(self) -> float:
        return self.num_frames / self.frame_rate

    def grid(self, scale: int) -> LatentGrid:
        """The latent grid at the size divided by `scale`."""
        return LatentGrid.of_video(self.num_frames, self.height // scale, self.width // scale, self.latents)

    @property
    def audio_tokens(self) -> int:
        return audio_vae.latent_steps(self.seconds, self.latents.audio_per_second)

    @property
    def computed(self) -> Hashable:
        """What the kernels of a step depend on: neither the scales of guidance, nor what the pictures show and when."""
        appended = sum(frame > 0 for frame in self.pictures)
        return self.grid(1), appended, self.audio_tokens, passes_of(self.guidance), self.guidance.stg_blocks


@dataclass(frozen=True)
class FittedPicture:
    """A picture's pixels [1, 3, 1, H, W] at size / 2 and size / 1, by scale, and the frame that shows it."""

    frame: int
    strength: float | tuple[float, ...]
    """Or of each latent frame, where there are several."""
    pixels: Mapping[int, Tensor]


@dataclass(frozen=True)
class Repair:
    """A part of a finished video that is made again, with some frames before and after it."""

    source: Path
    frames: int
    """Of the source."""
    start: int
    """The source's frame that is computed first."""
    changed: range
    """The source's frames that are replaced."""
    shown: FittedPicture
    """The source's frames that are computed; those outside of `changed` are held."""

    def share_of_new(self, frame: int) -> float:
        """How much of a frame is new: nothing outside of the part, less at its ends, unless the video ends there."""
        if frame not in self.changed:
            return 0.0
        from_start = frame - self.changed.start if self.changed.start > 0 else FADED
        to_end = self.changed.stop - 1 - frame if self.changed.stop < self.frames else FADED
        return min(1.0, (min(from_start, to_end) + 1) / (FADED + 1))


@dataclass(frozen=True)
class FittedRequest:
    """A request with its windows, one where the video is short, and its pictures."""

    request: GenerationRequest
    """With width and height as numbers."""
    video: VideoShape
    """The whole video."""
    windows: tuple[Window, ...]
    pictures: tuple[FittedPicture, ...] = ()
    notices: tuple[str, ...] = ()
    """What fitting changed: a cropped picture."""
    repair: Repair | None = None
    """Where a part of a finished video is made again."""
    asked: str | None = None
    """The user's own prompt, where the request has the final words."""

    @property
    def num_frames(self) -> int:
        """Of the file that is written."""
        return self.video.num_frames if self.repair is None else self.repair.frames

    @property
    def own_prompt(self) -> str:
        return self.request.prompt if self.asked is None else self.asked

    @cached_property
    def shape(self) -> VideoShape:
        """What is computed at once, on which memory and time depend."""
        return largest_window(self.video, self.windows)


def fit_request(request: GenerationRequest, files: ModelFiles, style_loras: Iterable[Path]) -> FittedRequest:
    """Raises `InvalidInput` (and below) for outputs that cannot be written or would overwrite an input (the request's
    own or a file of the model), for a sound or picture that cannot be used, and what `shape_of` raises."""
    check_output(request.output_path)
    if request.save_latents:
        check_output_file(request.save_latents, None, "latents.safetensors")
    check_overwrites_nothing(
        {named("output_path"): request.output_path, named("save_latents"): request.save_latents},
        [(named("image"), picture.file) for picture in request.pictures]
        + [(named("audio"), request.audio), *files.paths.described()]
        + [(named("lora"), path) for path in style_loras],
    )
    if request.retake is not None:
        return fit_retake(request, request.retake, files)
    num_frames = _fit_length(request)
    if request.save_latents and num_frames > request.window_frames:
        reason = f"is possible up to {named('window_frames')}, {request.window_frames} frames; leave it out"
        raise InvalidRequest("save_latents", str(request.save_latents), reason)
    decoded = [decode_image(picture.file, request.image_crf) for picture in request.pictures]
    request = with_size(request, files.paths, (decoded[0].shape[1], decoded[0].shape[0]) if decoded else None)
    shape = shape_of(request, num_frames, files)
    label_of(request.visible_label, shape.width, shape.height)
    pictures, windows = _fit_pictures(decoded, request, shape), _fit_windows(request, num_frames)
    return FittedRequest(request, shape, windows, pictures, _cropped(decoded, shape))


def fit_retake(request: GenerationRequest, retake: Retake, files: ModelFiles) -> FittedRequest:
    """Raises `InvalidInput` for a video that cannot be used, and `InvalidRequest` for a range that cannot be made."""
    source = check_source(retake)
    changed = frames_of_range(retake, source)
    start, frames = _around(changed, source.frames)
    request = request.model_copy(
        update={
            "width": source.width,
            "height": source.height,
            "frame_rate": source.frame_rate,
            "num_frames": frames,
            "audio_start_time": request.audio_start_time + start / source.frame_rate,
        }
    )
    label_of(request.visible_label, source.width, source.height)
    video = replace(shape_of(request, frames, files), overlap=frames)
    window = Window(0, 0, frames, frames, 0, frames, range(0))
    factor = video.latents.temporal_factor
    inside = range(changed.start - start, changed.stop - start)
    covers = [range(max(0, factor * i - factor + 1), factor * i + 1) for i in range((frames - 1) // factor + 1)]
    strengths = tuple(float(not (c.start < inside.stop and inside.start < c.stop)) for c in covers)
    full = read_part(retake.video, start, frames)
    shown = FittedPicture(0, strengths, {2: torch.nn.functional.avg_pool3d(full, (1, 2, 2)), 1: full})
    return FittedRequest(request, video, (window,), repair=Repair(retake.video, source.frames, start, changed, shown))


def _around(changed: range, total: int) -> tuple[int, int]:
    """The first frame and the number of frames, 8k+1, that are computed: the changed ones and those around them."""
    start = max(0, changed.start - CONTEXT)
    frames = -(-(min(changed.stop + CONTEXT, total) - start - 1) // TEMPORAL_FACTOR) * TEMPORAL_FACTOR + 1
    if frames > total:
        frames = (total - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1
    start = min(start, total - frames)
    return (start if changed.stop <= start + frames else total - frames), frames


def with_size(request: GenerationRequest, paths: ModelPaths, picture: tuple[int, int] | None) -> GenerationRequest:
    """With width and height as numbers, by the width and height of its picture where they are "auto"."""
    sizes = puppet.SIZES if puppet.is_puppet(paths) else DEFAULTS.sizes
    width, height = frame_size(request, picture, sizes)
    return request.model_copy(update={"width": width, "height": height})


def _fit_length(request: GenerationRequest) -> int:
    """Raises `InvalidAudio` for a sound that is too long, where nobody said how much of it is wanted."""
    if request.num_frames != "auto":
        return request.num_frames
    longest = MAX_SECONDS + TOLERATED_SECONDS
    covered = audio_seconds(request.audio, request.audio_start_time, at_most=longest)
    if covered >= longest:
        raise InvalidAudio(
            f"The sound of {request.audio} is longer than {MAX_SECONDS} s, the longest video; give "
            f"{named('num_frames')}, and {named('audio_start_time')} for the rest."
        )
    return fit_num_frames(covered, request.frame_rate)


def _fit_windows(request: GenerationRequest, num_frames: int) -> tuple[Window, ...]:
    """Begun in pauses of the sound."""
    heard = None
    if num_frames > request.window_frames:
        heard = frame_loudness(request.audio, request.audio_start_time, num_frames, request.frame_rate)
    return windows_of(request, num_frames, heard)


def windows_of(
    request: GenerationRequest, num_frames: int, loudness: Sequence[float] | None = None
) -> tuple[Window, ...]:
    """Guard frames are left out where a window would be too long with them."""
    longest = request.window_frames
    guard = GUARD if request.speech_preparation == "auto" else 0
    if min(num_frames, longest) + guard > MAX_WINDOW_FRAMES:
        guard = 0
    return plan_windows(num_frames, longest, request.window_overlap, guard, loudness)


def largest_window(shape: VideoShape, windows: Iterable[Window]) -> VideoShape:
    """The shape of what is computed for the window that needs most memory; `shape` is the whole video's."""
    return max((shape_of_window(shape, window) for window in windows), key=lambda one: (len(one.pictures), one.overlap))


def shape_of_window(shape: VideoShape, window: Window) -> VideoShape:
    shown = tuple(frame for _, frame in shown_in(window, shape.pictures))
    return replace(shape, num_frames=window.frames, pictures=shown, overlap=window.overlap)


def shown_in(window: Window, pictures: Sequence[int]) -> list[tuple[int, int]]:
    """The pictures that a window is shown, of those at the video's frames `pictures`: their index, and their frame from
    the window's first. Later windows are shown the first picture as well, so that the face stays the same."""
    own = [(index, frame - window.start) for index, frame in enumerate(pictures)]
    anchor = [(index, ANCHOR_FRAME) for index, frame in enumerate(pictures) if frame == 0 and window.overlap]
    return [*anchor, *((index, frame) for index, frame in own if window.overlap <= frame < window.frames)]


def _cropped(pictures: Sequence[Tensor], shape: VideoShape) -> tuple[str, ...]:
    """A notice where the frame shows notably less than a picture."""
    notices = []
    for pixels in pictures:
        height, width, _ = pixels.shape
        across, down = width * shape.height, height * shape.width
        kept = min(across, down) / max(across, down)
        side = "width" if across > down else "height"
        if kept <= 1 - TOLERATED_CROP:
            notices.append(
                f"The picture, {width}x{height}, is cropped to the shape of the video, {shape.width}x{shape.height}: "
                f"the middle {kept:.0%} of its {side} are seen."
            )
    return tuple(dict.fromkeys(notices))


def shape_of(request: GenerationRequest, num_frames: int, files: ModelFiles) -> VideoShape:
    """Raises `InvalidRequest` for a perturbed block that the model does not have, a size it cannot upsample, or a
    quality that its checkpoint cannot give."""
    config, guidance = files.config, request.guidance if request.quality == "standard" else UNGUIDED
    check_quality(request, distilled_checkpoint=files.distilled_lora is None)
    width, height = frame_size(request, None, config.version.defaults.sizes)
    check_size(files.upsampler_arguments, config.version.latents, num_frames, height, width)
    if guidance.stg_blocks is None:
        guidance = guidance.model_copy(update={"stg_blocks": config.version.defaults.stg_blocks(config.num_layers)})
    beyond = [block for block in guidance.stg_blocks or () if block >= config.num_layers]
    if beyond:
        reason = f"is too large: this model's blocks are 0 to {config.num_layers - 1}"
        raise InvalidRequest("guidance.stg_blocks", beyond[0], reason)
    return VideoShape(
        width,
        height,
        num_frames,
        request.frame_rate,
        guidance,
        pictures=_frames_of_pictures(request, num_frames),
        latents=config.version.latents,
        quality=request.quality,
    )


def _frames_of_pictures(request: GenerationRequest, num_frames: int) -> tuple[int, ...]:
    """Raises `InvalidRequest` for a frame that the video does not have, and for two pictures at one frame."""
    frames: list[int] = []
    for picture in request.pictures:
        frame = num_frames - 1 if picture.frame == "last" else picture.frame
        if frame >= num_frames:
            raise InvalidRequest("images", frame, f"is beyond the video's last frame, {num_frames - 1}")
        if frame in frames:
            raise InvalidRequest("images", frame, "is the frame of two pictures; give each its own")
        frames.append(frame)
    return tuple(frames)


def _fit_pictures(
    decoded: Sequence[Tensor], request: GenerationRequest, shape: VideoShape
) -> tuple[FittedPicture, ...]:
    fitted = []
    for pixels, picture, frame in zip(decoded, request.pictures, shape.pictures, strict=True):
        by_scale = {scale: fit_image(pixels, shape.width // scale, shape.height // scale) for scale in (2, 1)}
        strength = request.image_strength if picture.strength is None else picture.strength
        fitted.append(FittedPicture(frame, strength, by_scale))
    return tuple(fitted)
