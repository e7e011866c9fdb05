"""Decodes picture files to the tensor that the video VAE encodes as the first frame.

Pixels are as a viewer shows them: rotated by EXIF, converted to sRGB from the embedded profile, transparency over
white. Then, as in the model's training, they are compressed once with H.264.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ltx_a2v.errors import InvalidImage, named
from ltx_a2v.settings.defaults import MAX_IMAGE_ASPECT, MAX_IMAGE_PIXELS, REDUCED_IMAGE_PIXELS

if TYPE_CHECKING:  # torch is imported by what makes tensors: mistakes are answered before that
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000", "TGA", "ICO")
"""The Pillow formats that are accepted: EPS and similar ones would start other programs."""

ORIENTATION = 0x0112
"""EXIF's tag; from 5 on the picture lies on its side."""


def decode_image(path: Path, crf: int) -> Tensor:
    """[H, W, 3] uint8 sRGB, after H.264 at `crf` (0: as it is). Raises `InvalidImage`."""
    import torch

    pixels = _decode(path)
    if crf > 0 and min(pixels.shape[:2]) >= 2:
        pixels = _through_h264(pixels, crf, path)
    return torch.from_numpy(pixels)


def fit_image(pixels: Tensor, width: int, height: int) -> Tensor:
    """[H, W, 3] uint8 -> [1, 3, 1, height, width] float32 in [-1, 1]: scaled to cover the frame and centre-cropped."""
    from torch.nn import functional as F

    source_height, source_width, _ = pixels.shape
    scale = max(height / source_height, width / source_width)
    size = (math.ceil(source_height * scale), math.ceil(source_width * scale))
    image = pixels.permute(2, 0, 1).unsqueeze(0).float()  # [1, 3, H, W]
    # Not antialiased: the model's conditioning pictures are made this way.
    image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    image = image[:, :, top : top + height, left : left + width]
    return (image / 127.5 - 1).unsqueeze(2)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as a viewer shows it, from the header. Raises `InvalidImage`."""
    with _opened(path) as image:
        sideways = image.getexif().get(ORIENTATION, 1) >= 5
        return (image.height, image.width) if sideways else (image.width, image.height)


def check_image(path: Path) -> None:
    """Decode the file and keep nothing. Raises `InvalidImage`, as `decode_image` would."""
    _decode(path)


def _decode(path: Path) -> npt.NDArray[np.uint8]:
    with _opened(path) as image:
        half = _half(image)
        if half is not None and image.format == "JPEG":
            image.draft(image.mode, half)
        image.load()
        colours = _to_srgb(_upright(image))
        # A JPEG was decoded at half its size already.
        return np.array(colours.reduce(2) if half is not None and image.size != half else colours)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file, whose pixels are not read yet; what goes wrong while it is used becomes `InvalidImage`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, for which we have our own limit, and of odd metadata, which is not used.
            warnings.simplefilter("ignore")
            with _open(path) as image:
                _check_size(image, path)
                yield image
    except Image.DecompressionBombError:
        raise InvalidImage(_too_large(path)) from None
    except InvalidImage:
        raise
    # On a damaged file Pillow's decoders raise nearly any error, even MemoryError for a false length.
    except Exception as error:
        raise InvalidImage(f"The image {path} is damaged ({_reason(error)}); save it again or give another.") from error


def _half(image: Image.Image) -> tuple[int, int] | None:
    """The reduced size at which a very large picture is decoded."""
    if image.width * image.height <= REDUCED_IMAGE_PIXELS:
        return None
    return -(-image.width // 2), -(-image.height // 2)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _open(path: Path) -> Image.Image:
    Image.init()
    try:
        if path.is_dir():
            raise InvalidImage(f"{path} is a folder; give an image file.")
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except FileNotFoundError:
        raise InvalidImage(f"There is no image file {path}; check the path.") from None
    except UnidentifiedImageError:
        raise InvalidImage(f"{path} is not an image that can be read; give a png, jpeg or webp.") from None
    except OSError as error:
        raise InvalidImage(f"The image file {path} cannot be read: {error.strerror or error}.") from error


def _check_size(image: Image.Image, path: Path) -> None:
    """From the header, before pixels take memory."""
    short, long = sorted(image.size)
    if short < 1:
        raise InvalidImage(f"The image {path} has no pixels ({image.width}x{image.height}); give another.")
    if short * long > MAX_IMAGE_PIXELS:
        raise InvalidImage(_too_large(path))
    if long > MAX_IMAGE_ASPECT * short:
        raise InvalidImage(f"The image {path} is too narrow ({image.width}x{image.height}); crop it.")


def _too_large(path: Path) -> str:
    return f"The image {path} has more than {MAX_IMAGE_PIXELS // 10**6} million pixels; scale it down."


def _upright(image: Image.Image) -> Image.Image:
    """Rotated and mirrored by its EXIF orientation, where EXIF can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return image


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    has_alpha = image.has_transparency_data and not _is_deep_grey(image)
    alpha = image.convert("RGBA").getchannel("A") if has_alpha else None
    colours = _without_profile(image) if profile is None else _from_profile(_opaque(image), profile)
    # The colour of fully transparent pixels is arbitrary, often black; a viewer shows the page instead.
    if alpha is not None and alpha.getextrema() != (255, 255):
        return Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
    return colours


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _without_profile(image)  # the profile is damaged, or for another colour space than the picture's
    return converted if converted is not None else _without_profile(image)


def _opaque(image: Image.Image) -> Image.Image:
    """In the colour space of its profile: grey stays grey, palette entries become RGB."""
    if _is_deep_grey(image):
        return _scaled_grey(image)
    if image.mode in ("1", "LA"):
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")


def _without_profile(image: Image.Image) -> Image.Image:
    return (_scaled_grey(image) if _is_deep_grey(image) else image).convert("RGB")


def _is_deep_grey(image: Image.Image) -> bool:
    """16 or 32 bits, integer or float; Pillow would clip them to 8 bits instead of scaling."""
    return image.mode == "F" or image.mode.startswith("I")


def _scaled_grey(image: Image.Image) -> Image.Image:
    levels = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode == "F":  # the format prescribes no range: take 0..1 or 0..255, by the largest value
        full = 1.0 if levels.max() <= 1 else 255.0
    else:
        full = 255.0 if image.mode == "I" and levels.max() <= 255 else 65535.0
    return Image.fromarray((levels / full * 255).round().clip(0, 255).astype(np.uint8))


def _through_h264(pixels: npt.NDArray[np.uint8], crf: int, path: Path) -> npt.NDArray[np.uint8]:
    """One frame encoded and decoded, cut to even sides, as 4:2:0 needs."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
    memory = BytesIO()
    try:
        with av.open(memory, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
            stream.width, stream.height = width, height
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode())
        with av.open(BytesIO(memory.getvalue()), "r") as container:
            decoded = next(container.decode(video=0))
            return np.asarray(decoded.to_ndarray(format="rgb24"), dtype=np.uint8)
    except (av.FFmpegError, StopIteration) as error:
        raise InvalidImage(
            f"H.264 cannot take the image {path} at {width}x{height}; scale it down or give {named('image_crf')} 0."
        ) from error
