from __future__ import annotations

import shutil
import struct
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ltx_a2v.errors import Cancelled, InvalidAudio, TooLarge
from ltx_a2v.media.sound import decode
from ltx_a2v.media.sound.decode import audio_seconds, check_audio_length
from ltx_a2v.media.sound.mel import log_mel
from ltx_a2v.media.sound.prepare import load_audio, resample

TORCHAUDIO = Path(__file__).parents[1] / "data" / "torchaudio.safetensors"
"""Recorded from torchaudio 2.11.0 on `waveform`: `functional.resample` with its defaults, and the log (clamped at 1e-5)
of `transforms.MelSpectrogram(16000, 1024, hop_length=160, n_mels=64, power=1, norm="slaney", mel_scale="slaney")`."""

LOSSLESS = [("a.wav", "pcm_s16le"), ("a.wav", "pcm_s24le"), ("a.wav", "pcm_s32le"), ("a.wav", "pcm_f32le"),
            ("a.wav", "pcm_f64le"), ("a.wav", "pcm_u8"), ("a.wav", "pcm_s64le"), ("a.flac", "flac"),
            ("a.mkv", "pcm_s16le"), ("a.mov", "pcm_s16be"), ("a.aiff", "pcm_s16be")]  # fmt: skip
LOSSY = [("a.mp3", "libmp3lame", 44100), ("a.m4a", "aac", 44100), ("a.aac", "aac", 44100), ("a.ogg", "libopus", 48000),
         ("a.mkv", "aac", 44100), ("a.webm", "libopus", 48000), ("a.mp4", "aac", 22050), ("a.ts", "aac", 48000),
         ("a.avi", "libmp3lame", 44100), ("a.flv", "aac", 44100)]  # fmt: skip


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def speech_like(seconds: float, rate: int) -> np.ndarray:
    """[1, n]: noise below 3 kHz in bursts, of which no stretch resembles another; survives every lossy codec."""
    samples = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(7).standard_normal(samples))
    spectrum[np.fft.rfftfreq(samples, 1 / rate) > 3000] = 0
    sound = np.fft.irfft(spectrum, samples) * (0.6 + 0.4 * np.sin(np.arange(samples) / rate * 9))
    return (0.4 * sound / np.abs(sound).max())[None].astype(np.float32)


def lag(heard: np.ndarray, expected: np.ndarray) -> int:
    """By how many samples `heard` comes late, from the peak of their cross-correlation."""
    size = 2 * len(expected)
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(expected, size)), size)
    peak = int(np.argmax(product))
    assert product[peak] > 0.5 * np.linalg.norm(heard) * np.linalg.norm(expected)
    return peak if peak < size // 2 else peak - size


def write_s16(path: Path, samples: np.ndarray, rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.T.astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("start", [1e18, 1e300])
def test_a_start_beyond_all_time(tmp_path: Path, start: float) -> None:
    path = write_s16(tmp_path / "a.wav", np.zeros((1, 100)), 16000)
    with pytest.raises(InvalidAudio, match=r"0\.01 s long"):
        audio_seconds(path, start)


@pytest.mark.parametrize("rate", [999, 768_001, 2**31 - 1])
def test_sample_rates_that_cannot_be(tmp_path: Path, rate: int) -> None:
    path = write_s16(tmp_path / "a.wav", np.zeros((1, 100)), rate)
    with pytest.raises(InvalidAudio, match=f"{rate} samples per second"):
        load_audio(path, 0.0, 1.0)


# --- what is decoded -------------------------------------------------------------------------------------------------


def test_sixteen_bit_wav_is_exact(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, (2, 5000))
    samples[:, 0], samples[:, 1] = -32768, 32767
    clip = load_audio(write_s16(tmp_path / "a.wav", samples, 22050), 0.0, 5000 / 22050)
    assert clip.sample_rate == 22050
    assert clip.waveform.dtype == torch.float32
    assert np.array_equal(clip.waveform.numpy(), samples.astype(np.float32) / np.float32(32768))


def test_mono_is_doubled_at_full_level(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, (1, 1000))
    clip = load_audio(write_s16(tmp_path / "a.wav", samples, 16000), 0.0, 1000 / 16000)
    expected = samples.astype(np.float32) / np.float32(32768)
    assert np.array_equal(clip.waveform.numpy(), np.concatenate([expected, expected]))


@pytest.mark.parametrize(("name", "codec"), LOSSLESS)
def test_every_sample_format(make_audio, name: str, codec: str) -> None:
    samples = noise(2, 9000)
    clip = load_audio(make_audio(name, samples, 16000, codec), 0.0, 9000 / 16000)
    assert clip.waveform.shape == (2, 9000)
    assert np.abs(clip.waveform.numpy() - samples).max() < (1 / 100 if codec == "pcm_u8" else 1 / 30000)
    assert clip.padded_seconds == 0


@pytest.mark.parametrize(("name", "codec"), LOSSLESS)
def test_lossless_starts_on_the_sample(make_audio, name: str, codec: str) -> None:
    rate, samples = 11025, noise(2, 6 * 11025)
    path = make_audio(name, samples, rate, codec)
    # Matroska's milliseconds are 11 samples at this rate.
    allowed = rate // 1000 if name == "a.mkv" else 0
    for start in (0.1, 1.37, 4.999):
        clip = load_audio(path, start, 0.5)
        first = round(start * rate)
        assert abs(lag(clip.waveform[0].numpy(), samples[0, first : first + round(0.5 * rate)])) <= allowed


@pytest.mark.parametrize(("name", "codec", "rate"), LOSSY)
def test_lossy_starts_where_it_should(make_audio, name: str, codec: str, rate: int) -> None:
    sound = speech_like(9, rate)
    path = make_audio(name, sound, rate, codec)
    # Bare AAC, TS, AVI and FLV do not say how long their encoder's delay is.
    delay = 1200 if name in ("a.aac", "a.ts", "a.avi", "a.flv") else 0
    for start in (0.0, 0.5, 3.21, 7.3):
        clip = load_audio(path, start, 1.5)
        first = round(start * rate)
        shift = lag(clip.waveform[0].numpy(), sound[0, first : first + round(1.5 * rate)])
        assert -rate // 500 <= shift <= delay + rate // 500


@pytest.mark.parametrize(("name", "codec", "rate"), LOSSY)
def test_seconds_are_those_that_decode(make_audio, name: str, codec: str, rate: int) -> None:
    path = make_audio(name, speech_like(12.7, rate), rate, codec)
    assert audio_seconds(path) == pytest.approx(12.7, abs=0.08)
    assert audio_seconds(path, 11.2) == pytest.approx(audio_seconds(path) - 11.2, abs=2e-3)


@pytest.mark.parametrize(("name", "codec"), LOSSLESS)
def test_seconds_of_lossless_files_are_exact(make_audio, name: str, codec: str) -> None:
    assert audio_seconds(make_audio(name, noise(1, 33333), 8000, codec)) == pytest.approx(33333 / 8000, abs=1e-9)


def test_surround_is_mixed_to_both_sides(make_audio) -> None:
    samples = np.zeros((6, 8000), np.float32)  # FL FR FC LFE BL BR
    samples[0], samples[2], samples[5] = 0.1, 0.2, 0.05
    clip = load_audio(make_audio("a.wav", samples, 16000, "pcm_s16le", layout="5.1"), 0.0, 0.5)
    left, right = clip.waveform.mean(dim=1).tolist()
    assert left == pytest.approx(0.1 + 0.2 * 0.5**0.5, abs=1e-3)
    assert right == pytest.approx(0.2 * 0.5**0.5 + 0.05 * 0.5**0.5, abs=1e-3)


def test_loud_surround_stays_within_full_scale(make_audio) -> None:
    clip = load_audio(
        make_audio("a.wav", np.full((6, 800), 0.9, np.float32), 16000, "pcm_f32le", layout="5.1"), 0, 0.05
    )
    assert clip.waveform.max() == 1


def test_channels_without_a_layout(tmp_path: Path) -> None:
    clip = load_audio(write_s16(tmp_path / "a.wav", np.full((4, 800), 8000), 16000), 0, 0.05)
    assert clip.waveform.shape == (2, 800)
    assert (clip.waveform > 0.1).all()


def test_not_a_number_becomes_silence(make_audio) -> None:
    samples = np.full((1, 800), 0.5, np.float32)
    samples[0, 100:200] = np.nan
    clip = load_audio(make_audio("a.wav", samples, 16000, "pcm_f32le"), 0, 0.05)
    assert clip.waveform.isfinite().all()
    assert (clip.waveform[:, 100:200] == 0).all()


# --- lengths ---------------------------------------------------------------------------------------------------------


def test_short_audio_is_padded_with_silence(make_audio) -> None:
    samples = noise(2, 8000)
    clip = load_audio(make_audio("a.wav", samples, 16000, "pcm_f32le"), 0.1, 1.0)
    assert clip.waveform.shape == (2, 16000)
    assert clip.seconds == 1.0
    assert clip.padded_seconds == pytest.approx(0.6)
    assert np.array_equal(clip.waveform[:, :6400].numpy(), samples[:, 1600:])
    assert (clip.waveform[:, 6400:] == 0).all()


def test_long_audio_is_cut(make_audio) -> None:
    path = make_audio("a.wav", noise(2, 96000), 16000, "pcm_f32le")
    clip = load_audio(path, 1.0, 97 / 24)
    assert clip.waveform.shape == (2, round(97 / 24 * 16000))
    assert clip.padded_seconds == 0


def test_sound_that_starts_after_the_picture_keeps_its_place(make_audio) -> None:
    sound = speech_like(3, 48000)
    path = make_audio("a.mp4", sound, 48000, "aac", video_seconds=4, audio_at=0.5)
    clip = load_audio(path, 0.0, 3.0)
    assert clip.waveform[:, : round(0.45 * 48000)].abs().max() < 1e-3
    assert abs(lag(clip.waveform[0].numpy(), np.pad(sound[0], (24000, 0))[: 3 * 48000])) <= 96
    assert audio_seconds(path) == pytest.approx(3.5, abs=0.05)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("start", [0.0, 3.0])
def test_sound_of_a_video(make_audio, name: str, start: float) -> None:
    sound = speech_like(6, 48000)
    path = make_audio(name, sound, 48000, "aac", video_seconds=6)
    clip = load_audio(path, start, 2.0)
    first = round(start * 48000)
    assert -96 <= lag(clip.waveform[0].numpy(), sound[0, first : first + 96000]) <= 1200


def test_only_the_wanted_stretch_is_held_and_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.wav"
    write_s16(path, np.zeros((1, 8000 * 600), np.int16), 8000)
    decoded = 0
    original = av.AudioResampler.resample

    class Counting:
        def __init__(self, *args: object) -> None:
            self.inner = av.AudioResampler(*args)

        def resample(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
            nonlocal decoded
            decoded += frame.samples
            return original(self.inner, frame)

    monkeypatch.setattr("ltx_a2v.media.sound.prepare.AudioResampler", Counting)
    for start in (0.0, 300.0):
        decoded = 0
        clip = load_audio(path, start, 2.0)
        assert clip.padded_seconds == 0
        assert 16000 <= decoded < 16000 + 3 * 8000


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of every frame that was decoded."""
    counts: list[int] = []
    frames = decode._frames

    def counting(source: decode.Source, early: float) -> Iterator[av.AudioFrame]:
        for frame in frames(source, early):
            counts.append(frame.samples)
            yield frame

    monkeypatch.setattr(decode, "_frames", counting)
    return counts


def without_length(path: Path) -> Path:
    """The same Matroska file without the duration in its header, as a browser's recorder writes it."""
    content = path.read_bytes()
    duration, void = b"\x44\x89\x88", b"\xec\x40\x08"  # an element's name and its size, 8 bytes
    assert content.count(duration) == 1
    path.write_bytes(content.replace(duration, void))
    return path


def test_four_seconds_of_a_long_webm_decode_no_more(make_audio, decoded: list[int]) -> None:
    path = make_audio("a.webm", noise(1, 60 * 48000), 48000, "libopus")
    decoded.clear()
    load_audio(path, 20.0, 4.0)
    assert 4 * 48000 <= sum(decoded) < 8 * 48000


def test_seconds_up_to_a_bound_decode_no_more(make_audio, decoded: list[int]) -> None:
    path = make_audio("a.webm", noise(1, 30 * 48000), 48000, "libopus")
    decoded.clear()
    assert audio_seconds(path, 10.0, at_most=3.0) == 3.0
    assert sum(decoded) < 6 * 48000
    assert audio_seconds(path, 28.0, at_most=3.0) == pytest.approx(2.0, abs=0.08)


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libopus"), ("a.flac", "flac"), ("a.wav", "pcm_s16le")])
def test_the_limit_counts_what_decodes(make_audio, decoded: list[int], name: str, codec: str) -> None:
    path = make_audio(name, noise(1, 30 * 48000), 48000, codec)
    check_audio_length(path, 30.1)
    decoded.clear()
    with pytest.raises(TooLarge, match="longer than the 5 s that are allowed") as error:
        check_audio_length(path, 5.0)
    assert error.value.code == "audio_too_long"
    assert sum(decoded) < 6 * 48000


def test_a_header_without_a_length_passes_no_limit(make_audio) -> None:
    path = without_length(make_audio("a.webm", noise(1, 30 * 48000), 48000, "libopus"))
    with av.open(path) as container:
        assert not container.duration
    with pytest.raises(TooLarge):
        check_audio_length(path, 5.0)


def test_measuring_can_be_stopped(make_audio, decoded: list[int]) -> None:
    path = make_audio("a.flac", noise(1, 30 * 48000), 48000, "flac")
    decoded.clear()

    def poll() -> None:
        raise Cancelled("The job was cancelled.")

    with pytest.raises(Cancelled):
        check_audio_length(path, 60.0, poll)
    assert sum(decoded) < 3 * 48000


def test_no_sound_has_no_length(tmp_path: Path) -> None:
    with pytest.raises(InvalidAudio, match="holds no sound"):
        check_audio_length(write_s16(tmp_path / "a.wav", np.zeros((1, 0)), 16000), 60.0)


# --- damaged and odd files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.mp3", "libmp3lame", 44100), ("a.ogg", "libopus", 48000)])
def test_damage_in_the_middle_is_survived(
    make_audio, name: str, codec: str, rate: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_audio(name, speech_like(8, rate), rate, codec)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    clip = load_audio(path, 0.0, 8.0)
    assert clip.waveform[:, : 2 * rate].abs().max() > 0.1
    assert clip.waveform[:, 6 * rate : 7 * rate].abs().max() > 0.1
    assert capfd.readouterr() == ("", "")


def test_lost_packets_leave_a_gap_and_the_rest_in_place(make_audio, tmp_path: Path) -> None:
    sound = speech_like(6, 48000)
    whole, holed = make_audio("whole.mp4", sound, 48000, "aac"), tmp_path / "holed.mp4"
    with av.open(whole) as source, av.open(holed, "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None and not 2 * 48000 <= packet.dts < 3 * 48000:
                packet.stream = stream
                target.mux(packet)
    clip = load_audio(holed, 0.0, 6.0)
    assert clip.waveform[:, round(2.1 * 48000) : round(2.9 * 48000)].abs().max() < 1e-3
    assert abs(lag(clip.waveform[0, 4 * 48000 :].numpy(), sound[0, 4 * 48000 :])) <= 96


def test_sound_of_an_unknown_kind(tmp_path: Path) -> None:
    path = write_s16(tmp_path / "a.wav", noise(1, 1000) * 20_000, 16_000)
    content = bytearray(path.read_bytes())
    content[20:22] = b"\x99\x99"  # the number of the codec
    path.write_bytes(content)
    with pytest.raises(InvalidAudio, match="of a kind that FFmpeg does not know"):
        audio_seconds(path)


def test_what_follows_a_wav_is_not_read(tmp_path: Path) -> None:
    """FFmpeg would look for chunks in it: a second for each MB of zeros, each time that the file is opened."""
    path = write_s16(tmp_path / "a.wav", noise(1, 16_000) * 20_000, 16_000)
    before = load_audio(path, 0.0, 1.0)
    with path.open("ab") as file:
        file.write(bytes(4_000_000))
    began = time.process_time()
    after = load_audio(path, 0.0, 1.0)
    assert time.process_time() - began < 2
    assert torch.equal(before.waveform, after.waveform)


@pytest.mark.parametrize(("place", "size"), [(4, 0), (4, 1000), (4, 2**32 - 1), (40, 0), (40, 2**32 - 1)])
def test_wav_without_its_sizes_is_read_to_the_end(tmp_path: Path, place: int, size: int) -> None:
    """As programs write it that stream, or that were killed."""
    path = write_s16(tmp_path / "a.wav", noise(1, 16_000) * 20_000, 16_000)
    content = bytearray(path.read_bytes())
    assert content.index(b"data") == 36
    content[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert audio_seconds(path) == 1.0


def test_truncated_wav_is_as_long_as_its_samples(tmp_path: Path) -> None:
    path = write_s16(tmp_path / "a.wav", np.ones((1, 16000)), 16000)
    path.write_bytes(path.read_bytes()[:-16000])
    assert audio_seconds(path) == pytest.approx(0.5)
    assert load_audio(path, 0, 1).padded_seconds == pytest.approx(0.5)


def test_cover_art_does_not_delay_the_sound(make_audio, tmp_path: Path) -> None:
    sound = speech_like(3, 44100)
    plain, covered = make_audio("plain.mp3", sound, 44100, "libmp3lame"), tmp_path / "covered.mp3"
    with av.open(plain) as source, av.open(covered, "w") as target:
        audio = target.add_stream_from_template(source.streams.audio[0])
        cover = target.add_stream("png", rate=1, width=16, height=16, pix_fmt="rgb24")
        target.mux(cover.encode(av.VideoFrame(16, 16, "rgb24")))
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = audio
                target.mux(packet)
    with av.open(covered) as container:
        assert container.streams.video
    assert torch.equal(load_audio(covered, 0.0, 2.0).waveform, load_audio(plain, 0.0, 2.0).waveform)


def test_file_names_are_not_protocols(make_audio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(make_audio("a.wav", noise(1, 800), 16000, "pcm_s16le"), tmp_path / "data:take 1%d.wav")
    monkeypatch.chdir(tmp_path)
    assert audio_seconds(Path("data:take 1%d.wav")) == 0.05


# --- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.fixture
def unusable(make_audio, tmp_path: Path) -> dict[str, Path]:
    wav = make_audio("good.wav", noise(1, 800), 16000, "pcm_s16le")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no sound at all\n" * 50)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{wav}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {wav.name}\n")
    with av.open(tmp_path / "silent.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    return {
        "There is no audio file": tmp_path / "missing.wav",
        "is a folder": tmp_path,
        "is empty": tmp_path / "empty.wav",
        "is not an audio or video file": tmp_path / "text.wav",
        "(?# a playlist)": tmp_path / "list.m3u8",
        "(?# a list)": tmp_path / "list.ffconcat",
        "has no audio stream": tmp_path / "silent.mp4",
        "holds no sound that can be decoded": write_s16(tmp_path / "headeronly.wav", np.zeros((1, 0)), 16000),
    }


def test_unusable_files_say_why(unusable: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    for reason, path in unusable.items():
        with pytest.raises(InvalidAudio, match=reason) as caught:
            audio_seconds(path)
        assert str(path) in str(caught.value)
        with pytest.raises(InvalidAudio, match=reason):
            load_audio(path, 0.0, 1.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.mp3", "libmp3lame"), ("a.mkv", "aac")])
@pytest.mark.parametrize("start", [2.2, 60.0])
def test_start_after_the_end_says_how_long_it_is(make_audio, name: str, codec: str, start: float) -> None:
    path = make_audio(name, noise(1, 32000), 16000, codec)
    for use in (lambda: audio_seconds(path, start), lambda: load_audio(path, start, 1.0)):
        with pytest.raises(InvalidAudio, match=rf"start at {start:g} s.*2\.\d\d s long"):
            use()


# --- resampling and mel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("from_rate", "to_rate"),
    [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (44101, 16000), (192000, 48000)],
)
def test_resample_equals_torchaudio(from_rate: int, to_rate: int) -> None:
    recorded = load_file(TORCHAUDIO)
    expected = recorded[f"resample_{from_rate}_{to_rate}"]
    torch.testing.assert_close(resample(recorded["waveform"], from_rate, to_rate), expected, atol=1e-6, rtol=0)


def test_resample_to_the_same_rate_changes_nothing() -> None:
    waveform = torch.rand(2, 100)
    assert torch.equal(resample(waveform, 16000, 16000), waveform)


def test_resample_keeps_a_tone_and_its_phase() -> None:
    tone = torch.sin(torch.arange(44100) * (2 * torch.pi * 440 / 44100)).expand(2, -1)
    expected = torch.sin(torch.arange(16000) * (2 * torch.pi * 440 / 16000)).expand(2, -1)
    assert (resample(tone, 44100, 16000) - expected)[:, 100:-100].abs().max() < 2e-3


def test_resample_in_chunks_is_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = torch.rand(2, 5000, generator=torch.Generator().manual_seed(0))
    whole = resample(waveform, 44100, 16000)
    monkeypatch.setattr("ltx_a2v.media.sound.prepare.RESAMPLE_CHUNK", 100)
    torch.testing.assert_close(resample(waveform, 44100, 16000), whole, atol=1e-7, rtol=0)


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_resample_of_next_to_nothing(samples: int) -> None:
    assert resample(torch.ones(2, samples), 44100, 16000).shape == (2, -(-samples * 160 // 441))


def test_log_mel_equals_torchaudio() -> None:
    recorded = load_file(TORCHAUDIO)
    mel = log_mel(recorded["waveform"])
    assert mel.shape == (1, 2, 1 + 2500 // 160, 64)
    torch.testing.assert_close(mel, recorded["log_mel"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [0, 1, 512, 513])
def test_log_mel_of_very_short_sound(samples: int) -> None:
    mel = log_mel(torch.zeros(2, samples))
    assert mel.shape == (1, 2, 4, 64)
    assert torch.equal(mel, torch.full_like(mel, 1e-5).log())
