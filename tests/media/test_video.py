from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ltx_a2v.errors import InvalidOutput
from ltx_a2v.media.sound.prepare import AudioClip, load_audio
from ltx_a2v.media.video import QUEUED, VideoWriter, _Encoder, check_output


def moving(frames: int, width: int = 64, height: int = 64) -> torch.Tensor:
    """[F, H, W, 3] uint8: coloured waves that drift."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    waves = [torch.sin(x / 19 + t / 3), torch.cos(y / 21 - t / 4), torch.sin((x + y) / 23 + t / 5)]
    return (128 + 90 * torch.stack(waves, dim=-1)).byte()


def clip(seconds: float, rate: int = 44100) -> AudioClip:
    noise = torch.rand(2, round(seconds * rate), generator=torch.Generator().manual_seed(0)) - 0.5
    return AudioClip(waveform=noise, sample_rate=rate, padded_seconds=0.0)


def write(path: Path, frames: torch.Tensor, audio: AudioClip | None, frame_rate: float = 24.0, chunk: int = 5) -> Path:
    height, width = frames.shape[1:3]
    with VideoWriter(path, width=width, height=height, frame_rate=frame_rate, audio=audio) as writer:
        for first in range(0, len(frames), chunk):
            writer.write(frames[first : first + chunk])
    return path


def read(path: Path) -> np.ndarray:
    with av.open(path.absolute()) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def boxes(path: Path) -> list[str]:
    """The names of the mp4's outermost boxes, in order."""
    content, names, at = path.read_bytes(), [], 0
    while at < len(content):
        names.append(content[at + 4 : at + 8].decode())
        at += int.from_bytes(content[at : at + 4], "big")
    return names


def test_streams_are_what_browsers_play(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(25, 128, 64), clip(25 / 24))
    with av.open(path) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        context = video.codec_context
        assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 128, 64)
        assert (context.colorspace, context.color_range) == (1, 1)  # BT.709, limited
        assert (context.color_primaries, context.color_trc) == (1, 1)
        assert (video.average_rate, video.frames) == (24, 25)
        assert (audio.codec_context.name, audio.codec_context.sample_rate, audio.layout.name) == (
            "aac",
            44100,
            "stereo",
        )
        assert video.start_time == audio.start_time == container.start_time == 0
        assert float(video.duration * video.time_base) == pytest.approx(25 / 24)
        assert next(container.decode(video=0)).pts == 0
    names = boxes(path)
    assert names.index("moov") < names.index("mdat")


def test_frames_come_back_in_order_and_colour(tmp_path: Path) -> None:
    frames = moving(17)
    decoded = read(write(tmp_path / "a.mp4", frames, None)).astype(int)
    assert decoded.shape == frames.shape
    assert np.abs(decoded - frames.numpy()).mean() < 3
    assert np.abs(decoded[1:] - frames[:-1].numpy()).mean() > 10


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (20, 200, 60)])
def test_colours_are_bt709(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    frames = torch.tensor(colour, dtype=torch.uint8).expand(3, 64, 64, 3)
    path = write(tmp_path / "a.mp4", frames, None)
    r, g, b = (level / 255 for level in colour)
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    expected = (16 + 219 * luma, 128 + 224 * (b - luma) / 1.8556, 128 + 224 * (r - luma) / 1.5748)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        found = [np.frombuffer(plane, np.uint8)[plane.line_size * 8 + 8] for plane in frame.planes]
    assert np.abs(np.array(found, float) - expected).max() <= 1.5


@pytest.mark.parametrize("seconds", [0.3, 25 / 24, 3.0])
def test_sound_is_as_long_as_the_picture(tmp_path: Path, seconds: float) -> None:
    path = write(tmp_path / "a.mp4", moving(25), clip(seconds))
    with av.open(path) as container:
        stream = container.streams.audio[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(25 / 24, abs=1024 / 44100)
    heard = load_audio(path, 0.0, 25 / 24).waveform
    assert heard[:, : round(0.25 * 44100)].std() > 0.1
    late = heard[:, round(0.4 * 44100) : round(1.0 * 44100)].std()
    assert late < 0.01 if seconds == 0.3 else late > 0.1


def test_sound_stays_in_sync(tmp_path: Path) -> None:
    sound = clip(97 / 24)
    sound.waveform[:] = 0
    sound.waveform[:, 2 * 44100] = 0.9
    heard = load_audio(write(tmp_path / "a.mp4", moving(97), sound, chunk=40), 0.0, 97 / 24)
    assert abs(int(heard.waveform[0].abs().argmax()) - 2 * 44100) <= 2


@pytest.mark.parametrize(("rate", "written"), [(8000, 8000), (16000, 16000), (37800, 48000), (192000, 48000)])
def test_rates_that_aac_lacks_become_48_khz(tmp_path: Path, rate: int, written: int) -> None:
    tone = torch.sin(torch.arange(rate) * (2 * torch.pi * 500 / rate)).expand(2, -1) * 0.5
    path = write(tmp_path / "a.mp4", moving(24), AudioClip(tone, rate, 0.0))
    heard = load_audio(path, 0.0, 1.0)
    assert heard.sample_rate == written
    spectrum = torch.fft.rfft(heard.waveform[0]).abs()
    assert int(spectrum.argmax()) == 500
    assert float(heard.waveform.abs().max()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("frame_rate", "exact"),
    [
        (23.976, (24000, 1001)),
        (29.97, (30000, 1001)),
        (59.94, (60000, 1001)),
        (25.0, (25, 1)),
        (12.5, (25, 2)),
        (1, (1, 1)),
    ],
)
def test_frame_rates(tmp_path: Path, frame_rate: float, exact: tuple[int, int]) -> None:
    with av.open(write(tmp_path / "a.mp4", moving(9), clip(9 / frame_rate), frame_rate)) as container:
        rate = container.streams.video[0].average_rate
        assert (rate.numerator, rate.denominator) == exact
        assert container.streams.video[0].frames == 9


def test_one_frame(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.mp4", moving(1), clip(1 / 24))).shape == (1, 64, 64, 3)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    frames, sound = moving(41, 128, 128), clip(41 / 24)
    first = write(tmp_path / "a.mp4", frames, sound).read_bytes()
    assert write(tmp_path / "b.mp4", frames, sound).read_bytes() == first
    assert write(tmp_path / "c.mp4", frames, sound, chunk=17).read_bytes() == first
    frames[3] = 0
    assert write(tmp_path / "d.mp4", frames, sound).read_bytes() != first


def test_sound_is_interleaved(tmp_path: Path) -> None:
    """A player that reads on meets sound and picture of the same time, however the frames were handed over."""
    path = write(tmp_path / "a.mp4", moving(97), clip(97 / 24), chunk=97)
    last = {"video": 0.0, "audio": 0.0}
    with av.open(path) as container:
        for packet in sorted((p for p in container.demux() if p.size), key=lambda p: p.pos):
            last[packet.stream.type] = float(packet.dts * packet.time_base)
            assert abs(last["video"] - last["audio"]) < 1.5


# --- the file and its place ------------------------------------------------------------------------------------------


def test_nothing_is_at_the_path_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, width=64, height=64, frame_rate=24, audio=None) as writer:
        writer.write(moving(9))
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    writer.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interruption_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    writer = VideoWriter(path, width=64, height=64, frame_rate=24, audio=clip(1))

    def interrupted() -> None:
        with writer:
            writer.write(moving(30))
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_closed_generator_leaves_nothing(tmp_path: Path) -> None:
    def generate() -> Iterator[int]:
        with VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None) as writer:
            writer.write(moving(9))
            yield 1

    steps = generate()
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="uint8"),
        VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None) as writer,
    ):
        writer.write(moving(9, 32, 64))
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_error_surfaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ltx_a2v.media.video._Encoder.encode", full)
    with (
        pytest.raises(InvalidOutput, match=r"a\.mp4 cannot be written: No space left"),
        VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None) as writer,
    ):
        writer.write(moving(9))
    assert list(tmp_path.iterdir()) == []
    assert encoder_threads() == []


# --- the encoder's thread --------------------------------------------------------------------------------------------


def encoder_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("video-encoder")]


class SlowEncoder:
    """Encodes each frame only when allowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed = threading.Semaphore(0)
        self.frames = 0
        self.error: Exception | None = None

        def slowly(encoder: _Encoder, pixels: torch.Tensor) -> None:
            self.allowed.acquire(timeout=10)
            self.frames += 1
            if self.error is not None:
                raise self.error
            encode(encoder, pixels)

        encode = _Encoder.encode
        monkeypatch.setattr(_Encoder, "encode", slowly)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowEncoder:
    return SlowEncoder(monkeypatch)


def test_frames_wait_for_the_encoder_in_a_bounded_queue(tmp_path: Path, slow: SlowEncoder) -> None:
    """The caller goes on with the next two pieces; a third waits until one is encoded."""
    with VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None) as writer:
        for _ in range(QUEUED):
            writer.write(moving(1))
        assert slow.frames == 0
        third = threading.Thread(target=writer.write, args=(moving(1),), daemon=True)
        third.start()
        third.join(0.2)
        assert third.is_alive()
        slow.allowed.release()
        third.join(10)
        assert not third.is_alive()
        slow.allowed.release(QUEUED)
    assert slow.frames == QUEUED + 1
    assert encoder_threads() == []


def test_after_an_error_nothing_more_is_encoded(tmp_path: Path, slow: SlowEncoder) -> None:
    slow.error = OSError(28, "No space left on device")

    def write_more() -> None:
        with VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None) as writer:
            for _ in range(QUEUED):
                writer.write(moving(3))
            slow.allowed.release(100)

    with pytest.raises(InvalidOutput, match="No space left"):
        write_more()
    assert slow.frames == 1
    assert list(tmp_path.iterdir()) == []
    assert encoder_threads() == []


def test_an_interruption_does_not_wait_for_frames_in_the_queue(tmp_path: Path, slow: SlowEncoder) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None) as writer:
            for _ in range(QUEUED):
                writer.write(moving(50))
            slow.allowed.release(1)
            raise KeyboardInterrupt

    threading.Timer(0.5, slow.allowed.release).start()  # the frame in progress
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert slow.frames <= 2
    assert list(tmp_path.iterdir()) == []
    assert encoder_threads() == []


class Copying:
    """In the place of a CUDA event: the pixels arrive when it is waited for."""

    def __init__(self, target: torch.Tensor, pixels: torch.Tensor) -> None:
        self.target, self.pixels = target, pixels

    def synchronize(self) -> None:
        self.target.copy_(self.pixels)


def test_frames_that_are_being_copied_are_waited_for(tmp_path: Path) -> None:
    frames = moving(5)
    expected = write(tmp_path / "a.mp4", frames, None).read_bytes()
    arriving = torch.zeros_like(frames)
    with VideoWriter(tmp_path / "b.mp4", width=64, height=64, frame_rate=24, audio=None) as writer:
        writer.write(arriving, Copying(arriving, frames))
    assert (tmp_path / "b.mp4").read_bytes() == expected


def test_a_failed_copy_surfaces(tmp_path: Path) -> None:
    class Failing:
        def synchronize(self) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with (
        pytest.raises(RuntimeError, match="illegal memory access"),
        VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None) as writer,
    ):
        writer.write(moving(5), Failing())
    assert list(tmp_path.iterdir()) == []
    assert encoder_threads() == []


def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="at least one frame"),
        VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=24, audio=None),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(InvalidOutput, match="cannot be written: No such file"):
        write(tmp_path / "gone" / "a.mp4", moving(9), None)


@pytest.mark.parametrize("name", ["data:take 1%d.mp4", "ä 視.MP4"])
def test_unusual_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(Path(name))
    assert len(read(write(Path(name), moving(3), None))) == 3


def test_check_output(tmp_path: Path) -> None:
    check_output(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder.mp4").mkdir()
    for path, reason in [
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "gone" / "a.mp4", "does not exist"),
        (tmp_path / "a.avi", r"must end in \.mp4; use .*a\.mp4"),
        (tmp_path / "a", r"must end in \.mp4"),
        (tmp_path / ("a" * 250 + ".mp4"), "cannot be written"),
        (Path("/proc/a.mp4"), "cannot be written"),
    ]:
        with pytest.raises(InvalidOutput, match=reason):
            check_output(path)


@pytest.mark.parametrize(("width", "height"), [(192, 128), (320, 192)])
def test_the_same_frames_give_the_same_bytes(width: int, height: int, tmp_path: Path) -> None:
    """At widths that are no multiple of 128 too, where x264's AVX-512 code reads what lies after a line."""
    coarse = torch.rand(1, 3, 4, height // 16, width // 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(17, height, width), mode="trilinear")[0]
    frames = (smooth * 255).byte().permute(1, 2, 3, 0).contiguous()
    files = []
    for index in range(6):
        path = tmp_path / f"{index}.mp4"
        with VideoWriter(path, width=width, height=height, frame_rate=24.0, audio=None) as writer:
            writer.write(frames)
        files.append(path.read_bytes())
    assert all(content == files[0] for content in files)
