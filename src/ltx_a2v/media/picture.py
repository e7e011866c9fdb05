"""Pictures: files to the tensor that the video VAE encodes as the first frame.

Pixels are what a viewer would show: upright by EXIF, in sRGB by the embedded profile, transparency over white. Then,
as in the model's training, they go once through H.264.
"""

from __future__ import annotations

import math
import struct
import warnings
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.errors import InvalidImage
from ltx_a2v.settings.defaults import MAX_IMAGE_ASPECT, MAX_IMAGE_PIXELS

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000", "TGA", "ICO")
"""Of Pillow's, those that are pictures: EPS and the like would start other programs."""


def decode_image(path: Path, crf: int) -> Tensor:
    """[H, W, 3] uint8 sRGB, after H.264 at `crf` (0: as it is). Raises `InvalidImage`."""
    pixels = _decode(path)
    if crf > 0 and min(pixels.shape[:2]) >= 2:
        pixels = _through_h264(pixels, crf, path)
    return torch.from_numpy(pixels)


def fit_image(pixels: Tensor, width: int, height: int) -> Tensor:
    """[H, W, 3] uint8 -> [1, 3, 1, height, width] float32 in [-1, 1]: scaled to cover, what juts out cut off evenly."""
    source_height, source_width, _ = pixels.shape
    scale = max(height / source_height, width / source_width)
    size = (math.ceil(source_height * scale), math.ceil(source_width * scale))
    image = pixels.permute(2, 0, 1).unsqueeze(0).float()  # [1, 3, H, W]
    # Not antialiased: the model's conditioning pictures are made this way.
    image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    image = image[:, :, top : top + height, left : left + width]
    return (image / 127.5 - 1).unsqueeze(2)


def _decode(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of odd metadata; we have our own limit, and pixels are what counts.
            warnings.simplefilter("ignore")
            with _open(path) as image:
                _check_size(image, path)
                image.load()
                return np.array(_to_srgb(_upright(image)))
    except Image.DecompressionBombError:
        raise InvalidImage(_too_large(path)) from None
    # What Pillow's decoders raise on damaged files, a truncated one included.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
        raise InvalidImage(f"The image {path} is damaged ({error}); save it anew or give another.") from error


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
    """Turned and mirrored as EXIF says, where EXIF can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return image


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    has_alpha = image.has_transparency_data and not _is_deep_grey(image)
    alpha = image.convert("RGBA").getchannel("A") if has_alpha else None
    colours = _without_profile(image) if profile is None else _from_profile(_opaque(image), profile)
    # The colour under full transparency is whatever the editor left there, often black; a viewer shows the page.
    if alpha is not None and alpha.getextrema() != (255, 255):
        return Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
    return colours


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _without_profile(image)  # broken, or made for other colours than the picture has
    return converted if converted is not None else _without_profile(image)


def _opaque(image: Image.Image) -> Image.Image:
    """In the colours that its profile speaks of: grey stays grey, palette entries become RGB."""
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
    if image.mode == "F":  # no range is prescribed: 0..1 or 0..255 by what is there
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
            f"H.264 cannot take the image {path} at {width}x{height}; scale it down or give --image-crf 0."
        ) from error
