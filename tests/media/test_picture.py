from __future__ import annotations

import io
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ltx_a2v.errors import InvalidImage
from ltx_a2v.media import picture as image_module
from ltx_a2v.media.picture import decode_image, fit_image


def picture(width: int = 60, height: int = 40, seed: int = 0) -> np.ndarray:
    """[H, W, 3] uint8, smooth, without any symmetry."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def covering_bilinear(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The formula in float64: sample centres mapped onto the source, edges repeated, the middle kept; in [-1, 1]."""
    source_height, source_width, _ = pixels.shape
    scale = max(height / source_height, width / source_width)
    tall, wide = math.ceil(source_height * scale), math.ceil(source_width * scale)

    def weights(source: int, scaled: int, wanted: int) -> np.ndarray:
        first = (scaled - wanted) // 2
        matrix = np.zeros((wanted, source))
        for row in range(wanted):
            at = max((row + first + 0.5) * source / scaled - 0.5, 0)
            low = min(int(at), source - 1)
            matrix[row, low] += 1 - (at - low)
            matrix[row, min(low + 1, source - 1)] += at - low
        return matrix

    rows, columns = weights(source_height, tall, height), weights(source_width, wide, width)
    return np.einsum("hy,yxc,wx->chw", rows, pixels.astype(np.float64), columns) / 127.5 - 1


@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 64), (64, 192), (60, 40), (33, 17)])
@pytest.mark.parametrize("source", [(60, 40), (37, 91), (200, 20), (1, 1)])
def test_covers_and_crops(tmp_path: Path, source: tuple[int, int], width: int, height: int) -> None:
    pixels = picture(*source)
    tensor = fit_image(decode_image(save(tmp_path / "a.png", Image.fromarray(pixels)), crf=0), width, height)
    assert tensor.shape == (1, 3, 1, height, width)
    assert tensor.dtype == torch.float32
    assert np.abs(tensor[0, :, 0].numpy() - covering_bilinear(pixels, width, height)).max() < 1e-4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = picture(64, 48)
    undo = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
            8: lambda a: np.rot90(a, -1)}  # fmt: skip
    stored = np.ascontiguousarray(undo.get(orientation, lambda a: a)(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", Image.fromarray(stored), exif=exif, quality=100, subsampling=0)
    decoded = decode_image(path, 0).numpy()
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 2


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm", "a.gif"])
def test_file_formats(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10], pixels[10:] = (200, 30, 90), (10, 220, 60)
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(tmp_path / name, Image.fromarray(pixels), **options)
    assert np.abs(decode_image(path, 0).numpy().astype(int) - pixels).max() <= 1


def test_the_name_does_not_decide(tmp_path: Path) -> None:
    path = tmp_path / "photo.dat"
    Image.fromarray(picture()).save(path, format="PNG")
    assert np.array_equal(decode_image(path, 0).numpy(), picture())


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA"])
def test_colour_modes(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    path = save(tmp_path / ("a.tiff" if mode == "CMYK" else "a.png"), image)
    assert np.array_equal(decode_image(path, 0).numpy(), np.array(image.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, name: str) -> None:
    levels = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    decoded = decode_image(save(tmp_path / name, Image.fromarray(levels)), 0).numpy()
    assert np.abs(decoded[..., 0] - levels / 257).max() <= 0.5
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_dark_sixteen_bit_grey_stays_dark(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.full((8, 8), 200, np.uint16)))
    assert decode_image(path, 0).max() == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(tmp_path: Path, mode: str) -> None:
    rgba = np.zeros((8, 12, 4), np.uint8)  # black, on the left transparent, in the middle half
    rgba[:, 4:8, 3], rgba[:, 8:, 3] = 128, 255
    path = save(tmp_path / "a.png", Image.fromarray(rgba).convert(mode))
    decoded = decode_image(path, 0).numpy()
    assert (decoded[:, :4] == 255).all()
    assert (decoded[:, 8:] == 0).all()
    if mode != "P":
        assert np.abs(decoded[:, 4:8].astype(int) - 127).max() <= 1


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(picture()).convert("RGBA"))
    assert np.array_equal(decode_image(path, 0).numpy(), picture())


def swapped_primaries() -> bytes:
    """An sRGB profile in which red and blue have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmp!", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmp!", b"bXYZ", 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_embedded_profile_is_converted_to_srgb(tmp_path: Path, mode: str) -> None:
    red = Image.new("RGB", (8, 8), "red").convert(mode)
    decoded = decode_image(save(tmp_path / "a.png", red, icc_profile=swapped_primaries()), 0).numpy().astype(int)
    assert np.abs(decoded - (0, 0, 255)).max() <= 2


@pytest.mark.parametrize(
    "profile", [b"not a profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_broken_or_foreign_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(picture()), icc_profile=profile)
    assert np.array_equal(decode_image(path, 0).numpy(), picture())


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        red, _, blue = decode_image(path, 0).float().mean(dim=(0, 1)).tolist()
        assert red > 240
        assert blue < 15


# --- H.264 round trip ------------------------------------------------------------------------------------------------


def encoded_and_decoded(pixels: np.ndarray, crf: int) -> np.ndarray:
    """The same picture through bare codecs, without a container."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = pixels.shape[0], pixels.shape[1], "yuv420p"
    encoder.time_base, encoder.framerate = 1, 1
    encoder.options = {"crf": str(crf), "preset": "veryfast"}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
    decoder = av.CodecContext.create("h264", "r")
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    frames = [f for packet in packets for f in decoder.decode(packet)] + decoder.decode(None)
    return frames[0].to_ndarray(format="rgb24")


@pytest.mark.parametrize("crf", [10, 33, 51])
def test_round_trip_is_that_of_libx264(tmp_path: Path, crf: int) -> None:
    pixels = picture(90, 70)
    decoded = decode_image(save(tmp_path / "a.png", Image.fromarray(pixels)), crf).numpy()
    assert np.array_equal(decoded, encoded_and_decoded(pixels, crf))


def test_round_trip_gets_coarser_with_crf(tmp_path: Path) -> None:
    pixels = picture(128, 96)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    losses = [np.abs(decode_image(path, crf).numpy().astype(int) - pixels).mean() for crf in (0, 5, 33, 51)]
    assert losses[0] == 0
    assert losses == sorted(set(losses))
    assert losses[-1] > 2 * losses[1]


@pytest.mark.parametrize(("size", "kept"), [((61, 41), (60, 40)), ((2, 2), (2, 2)), ((9, 1), (9, 1))])
def test_round_trip_of_odd_sizes(tmp_path: Path, size: tuple[int, int], kept: tuple[int, int]) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(picture(*size)))
    assert decode_image(path, 33).shape == (kept[1], kept[0], 3)


# --- what cannot be used ---------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    memory = io.BytesIO()
    Image.new("1", (width, height)).save(memory, format="PNG")
    return memory.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"hello " * 100, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (png(300, 300)[:60], "damaged"),
        (png(20000, 20000), "more than 100 million pixels"),
        (png(20000, 9000), "more than 100 million pixels"),
        (png(10000, 9500), None),
        (png(5000, 2), "too narrow"),
    ],
)
def test_unusable_pictures_say_why(
    tmp_path: Path, content: bytes, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    if reason is None:  # within the limit: loads, though Pillow would warn
        monkeypatch.setattr(image_module, "_to_srgb", lambda image: Image.new("RGB", (2, 1)))
        assert decode_image(path, 0).shape == (1, 2, 3)
        return
    with pytest.raises(InvalidImage, match=reason) as caught:
        decode_image(path, 33)
    assert str(path) in str(caught.value)


def test_truncated_jpeg(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(picture(200, 200)))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InvalidImage, match="damaged"):
        decode_image(path, 0)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="There is no image file"):
        decode_image(tmp_path / "missing.png", 0)
    with pytest.raises(InvalidImage, match="is a folder"):
        decode_image(tmp_path, 0)
