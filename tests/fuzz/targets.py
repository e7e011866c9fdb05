"""What strangers' bytes reach, each as a function of bytes: it returns, or raises what its caller answers; else it
has a defect. `SEEDS` are small valid inputs of each, which a fuzzer changes."""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import A2VError, InvalidInput, InvalidModel
from ltx_a2v.media.sound.decode import check_audio_length
from ltx_a2v.serving.http.bodies import Generate, VideoCreate
from ltx_a2v.serving.http.generation import generation_of
from ltx_a2v.serving.http.inputs import Limits, check_upload, inspect_upload
from ltx_a2v.serving.http.receiving import Receiving
from ltx_a2v.serving.http.security import Gate
from ltx_a2v.serving.http.uploads import read_body, save_inputs
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.versions import NEWEST
from tests.marks.videos import write_marked

LIMITS = Limits(image_pixels=10**6, audio_seconds=30.0)
BOUNDARY = "boundary"
LARGEST_TENSOR = 2**20

FOLDER = Path(tempfile.mkdtemp(prefix="ltx-a2v-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
SETTINGS = ServerSettings(output_dir=FOLDER, upload_timeout="2s", model_name="model")
RECEIVING = Receiving(SETTINGS)
KEYS = (None, "key")


def safetensors(content: bytes) -> None:
    """A model file, and a LoRA: headers, then the tensors."""
    path = _written(content)
    try:
        file = SafetensorsFile.open(path)
        for entry in file.tensors.values():
            if entry.nbytes <= LARGEST_TENSOR:
                read_tensor(entry)
        LoraFile.open(path, NEWEST.keys.lora)
    except InvalidModel as error:
        _check_message(error)


def picture(content: bytes) -> None:
    _upload("image", content)


def video(content: bytes) -> None:
    """As the checking process inspects it; what it finds is a reply in JSON."""
    try:
        json.dumps(inspect_upload(_written(content)))
    except InvalidInput as error:
        _check_message(error)


def sound(content: bytes) -> None:
    """As the checking process opens it, and as the worker then measures it."""
    _upload("audio", content)
    try:
        check_audio_length(_written(content), LIMITS.audio_seconds)
    except InvalidInput as error:
        _check_message(error)


def form(content: bytes) -> None:
    _body(content, f"multipart/form-data; boundary={BOUNDARY}")


def text(content: bytes) -> None:
    _body(content, "application/json")


def head(content: bytes) -> None:
    """The headers of a request at the gate: one a line."""
    lines = [line.partition(b":")[::2] for line in content.split(b"\n")]
    headers = [(name.strip().lower(), value.strip()) for name, value in lines]
    for key in KEYS:
        scope: Scope = {"type": "http", "method": "GET", "path": "/v1/videos", "headers": headers}
        asyncio.run(_through_the_gate(scope, key))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "safetensors": safetensors,
    "picture": picture,
    "sound": sound,
    "video": video,
    "form": form,
    "text": text,
    "head": head,
}


def _upload(which: str, content: bytes) -> None:
    try:
        check_upload(which, _written(content), 0.0, LIMITS)
    except InvalidInput as error:
        _check_message(error)
        if str(FOLDER) in str(error):
            raise AssertionError(f"a path of the server is told: {error}") from None


def _body(content: bytes, kind: str) -> None:
    for model in (VideoCreate, Generate):
        try:
            asyncio.run(_received(content, kind, model))
        except A2VError as error:
            _check_message(error)
            if error.http_status >= 500:
                raise AssertionError(f"the server is blamed: {error}") from None


async def _received(content: bytes, kind: str, model: type) -> None:
    scope: Scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    pieces = _in_pieces(content)

    async def receive() -> Message:
        return await anext(pieces)

    async with read_body(Request(scope, receive), model, RECEIVING) as body:
        generation_of(body.fields, SETTINGS)
        await save_inputs(body, FOLDER / "inputs", SETTINGS, Path)


async def _in_pieces(content: bytes) -> AsyncIterator[Message]:
    middle = len(content) // 2
    yield {"type": "http.request", "body": content[:middle], "more_body": True}
    yield {"type": "http.request", "body": content[middle:], "more_body": False}


async def _let_in(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


GATES = {key: Gate(_let_in, ServerSettings(api_key=key, output_dir=FOLDER)) for key in KEYS}


async def _through_the_gate(scope: Scope, key: str | None) -> None:
    answered = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    await GATES[key](scope, receive, send)
    assert answered[0] in (200, 401, 403)
    if answered[0] == 200:
        assert key is None or any(key.encode() in value or b"OmtleQ" in value for _, value in scope["headers"])
        [host] = [value for name, value in scope["headers"] if name == b"host"]
        assert host.lower().startswith((b"localhost", b"127.0.0.1", b"[::1]"))


def _written(content: bytes) -> Path:
    path = FOLDER / "input"
    path.write_bytes(content)
    return path


def _check_message(error: A2VError) -> None:
    """One line that a terminal and a JSON reply can show."""
    words = str(error)
    assert words
    assert "\n" not in words
    words.encode()


# -- valid inputs ------------------------------------------------------------------------------------------------------


def _pictures() -> list[bytes]:
    drawn = Image.effect_noise((24, 16), 80).convert("RGB")
    seeds = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000", "TGA", "ICO"):
        file = io.BytesIO()
        drawn.save(file, kind)
        seeds.append(file.getvalue())
    return seeds


def _sounds() -> list[bytes]:
    kinds = [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus"), ("mp4", "aac")]
    kinds += [("webm", "libopus"), ("adts", "aac"), ("aiff", "pcm_s16be"), ("avi", "libmp3lame"), ("mpegts", "aac")]
    seeds = []
    for container, codec in kinds:
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            stream = output.add_stream(codec, rate=48000, layout="mono")
            resampler = av.AudioResampler(stream.codec_context.format.name, "mono", 48000, 960)
            noise = np.random.default_rng(0).normal(0, 3000, (1, 4800)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(noise, "s16", "mono")
            frame.sample_rate = 48000
            for converted in resampler.resample(frame):
                output.mux(stream.encode(converted))
            output.mux(stream.encode())
        seeds.append(file.getvalue())
    return seeds


def _videos() -> list[bytes]:
    return [write_marked(FOLDER / "marked.mp4").read_bytes()]


def _models() -> list[bytes]:
    weights = {f"transformer_blocks.0.attn1.to_q.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"}
    return [
        save({"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, {"config": '{"transformer": {}}'}),
        save({f"diffusion_model.{name}": tensor for name, tensor in weights.items()}),
    ]


def _forms() -> list[bytes]:
    fields = {"prompt": "x", "size": "768x512", "seed": "1", "guidance[cfg]": "3", "guidance": '{"cfg": 3}'}
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    file = 'Content-Disposition: form-data; name="audio"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF'
    url = 'Content-Disposition: form-data; name="audio_reference[audio_url]"\r\n\r\ndata:;base64,UklGRg=='
    bodies = [[parts[0], file], [*parts[:4], url], [parts[0], parts[4], file], [file, file]]
    return [
        "".join(f"--{BOUNDARY}\r\n{part}\r\n" for part in body).encode() + f"--{BOUNDARY}--\r\n".encode()
        for body in bodies
    ]


def _texts() -> list[bytes]:
    sound = "data:audio/wav;base64,UklGRg=="
    bodies: list[dict[str, object]] = [
        {"prompt": "x", "audio": sound, "size": "768x512", "seconds": "4", "guidance": {"cfg": 3, "stg_blocks": [28]}},
        {"prompt": "x", "audio_reference": {"audio_url": sound}, "keep_alive": "5m", "num_frames": 9, "fps": 24.5},
        {"prompt": "x", "audio": "speech.wav", "image": "face.png", "width": 768, "height": 512, "seed": 2**40},
    ]
    return [json.dumps(body).encode() for body in bodies]


def _heads() -> list[bytes]:
    return [
        b"Host: localhost:8892\nOrigin: http://localhost:8892\nAuthorization: Bearer key\nSec-Fetch-Site: same-origin",
        b"Host: [::1]:8892\nX-API-Key: key\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document",
        b"Host: 127.0.0.1\nAuthorization: Basic OmtleQ==\nOrigin: null",
    ]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "safetensors": _models,
    "picture": _pictures,
    "sound": _sounds,
    "video": _videos,
    "form": _forms,
    "text": _texts,
    "head": _heads,
}

SPECIAL = (
    b"",
    b"\0",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"-1",
    b"1e999",
    b"NaN",
    b"\r\n",
    b'"',
    b"[" * 99,
)


def changed(content: bytes, choose: random.Random) -> bytes:
    """`content` with a few bytes changed, removed, repeated, or replaced by `SPECIAL` ones."""
    data = bytearray(content)
    for _ in range(choose.choice((1, 1, 2, 4, 16))):
        begin = choose.randrange(len(data) + 1)
        end = min(len(data), begin + choose.choice((0, 1, 1, 2, 4, 8, 100)))
        kind = choose.randrange(4)
        if kind == 0:
            data[begin:end] = choose.choice(SPECIAL)
        elif kind == 1:
            data[begin:end] = choose.randbytes(end - begin)
        elif kind == 2:
            data[begin:begin] = data[begin:end] * choose.choice((1, 2, 50))
        else:
            del data[begin : choose.choice((end, end, end, len(data)))]
    return bytes(data)
