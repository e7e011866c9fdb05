"""A ComfyUI node that has a server of ltx-a2v make a video from a picture and speech.

Copy this file into ComfyUI/custom_nodes. It needs nothing that ComfyUI does not have.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

SERVER = os.environ.get("LTX_A2V_SERVER", "http://127.0.0.1:8892")
WAIT_SECONDS = 2
"""Between two looks at whether the user has stopped the workflow."""
AWAY_SECONDS = 60.0
"""How long a server may be away while it makes the video; it goes on when it is back."""
TIMEOUT_SECONDS = 60.0
CHUNK = 2**20

Fields = dict[str, str]
Files = dict[str, tuple[str, bytes]]


class LtxA2V:
    """Picture, speech and prompt -> a video in which the picture speaks."""

    DESCRIPTION = "Has a server of ltx-a2v make a video in which the picture speaks."
    CATEGORY = "video/ltx-a2v"
    FUNCTION = "make"
    RETURN_TYPES = ("VIDEO", "STRING")
    RETURN_NAMES = ("video", "path")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        return {
            "required": {
                "audio": ("AUDIO",),
                "prompt": ("STRING", {"multiline": True, "default": "A woman speaks calmly to the camera."}),
                "server": ("STRING", {"default": SERVER}),
                "seed": ("INT", {"default": 42, "min": 0, "max": 2**63 - 1, "control_after_generate": True}),
                "frames": ("INT", {"default": 0, "min": 0, "step": 1, "tooltip": "8k+1; 0: as long as the sound"}),
                "size": ("STRING", {"default": "auto", "tooltip": "WIDTHxHEIGHT in multiples of 64, or auto"}),
            },
            "optional": {
                "image": ("IMAGE", {"tooltip": "The first frame; the first picture of a batch."}),
                "key": ("STRING", {"default": "", "tooltip": "Is saved with the workflow: better LTX_A2V_API_KEY."}),
            },
        }

    def make(
        self,
        audio: dict[str, Any],
        prompt: str,
        server: str,
        seed: int,
        frames: int = 0,
        size: str = "auto",
        image: Any = None,
        key: str = "",
    ) -> tuple[Any, str]:
        """`image` is [B, H, W, C] from 0 to 1, `audio` has `waveform` [B, C, T] from -1 to 1 and `sample_rate` in Hz.

        Raises `RuntimeError` with the server's reason.
        """
        fields = {"prompt": prompt, "seed": str(seed), "size": size}
        if frames:
            fields["num_frames"] = str(frames)
        files = {"audio": ("speech.wav", wav_of(audio))}
        if image is not None:
            files["input_reference"] = ("picture.png", png_of(image))
        calls = Server(server, key)
        video = calls.create(fields, files)
        video = _follow(calls, video)
        path = _folder() / f"{video['id']}.mp4"
        calls.download(f"/v1/videos/{video['id']}/content", path)
        return video_of(path), str(path)


NODE_CLASS_MAPPINGS = {"LtxA2V": LtxA2V}
NODE_DISPLAY_NAME_MAPPINGS = {"LtxA2V": "LTX audio to video (ltx-a2v server)"}


# -- the server --------------------------------------------------------------------------------------------------------


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Server:
    """The calls that the node makes. Raises `RuntimeError`."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RuntimeError(f"{url!r} is no server; write http://127.0.0.1:8892.")
        if not key and self._url == SERVER.rstrip("/"):  # a workflow of others must not get it by naming their server
            key = os.environ.get("LTX_A2V_API_KEY", "")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._opener = urllib.request.build_opener(_NoRedirects)

    def create(self, fields: Fields, files: Files) -> dict[str, Any]:
        boundary = uuid.uuid4().hex
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        with self._open("POST", "/v1/videos", _form(fields, files, boundary), headers) as reply:
            return dict(json.load(reply))

    def next_state(self, video: dict[str, Any], tag: str) -> tuple[dict[str, Any], str]:
        """The job and its tag when it has changed, or as they were."""
        headers = {"If-None-Match": tag} if tag else {}
        with self._open("GET", f"/v1/videos/{video['id']}?wait={WAIT_SECONDS}", None, headers) as reply:
            return (video, tag) if reply.status == 304 else (dict(json.load(reply)), reply.headers["ETag"])

    def cancel(self, video: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError, OSError), self._open("POST", f"/v1/videos/{video['id']}/cancel"):
            pass

    def download(self, path: str, to: Path) -> None:
        part = to.with_suffix(".part")
        with self._open("GET", path) as reply, part.open("wb") as file:
            while chunk := reply.read(CHUNK):
                file.write(chunk)
        part.replace(to)

    def _open(self, method: str, path: str, body: bytes | None = None, headers: Fields | None = None) -> Any:
        """Raises `Away` where the server cannot answer now."""
        request = urllib.request.Request(self._url + path, body, {**self._headers, **(headers or {})}, method=method)
        try:
            return self._opener.open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code == 304:
                return error
            with error:
                kind = Away if error.code == 503 else RuntimeError
                raise kind(_reason(error)) from None
        except OSError as error:
            raise Away(f"The server {self._url} does not answer: {error}. Start it with `ltx-a2v serve`.") from None


class Away(RuntimeError):
    """The server may answer later."""


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {error.code} without a reason; is it ltx-a2v's?"


def _form(fields: Fields, files: Files, boundary: str) -> bytes:
    parts = io.BytesIO()
    for name, text in fields.items():
        parts.write(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode())
    for name, (filename, content) in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
        parts.write(f"--{boundary}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode())
        parts.write(content)
        parts.write(b"\r\n")
    parts.write(f"--{boundary}--\r\n".encode())
    return parts.getvalue()


def _follow(calls: Server, video: dict[str, Any]) -> dict[str, Any]:
    """The job when it is completed; it is cancelled where the user stops the workflow."""
    show, tag, away_since = _progress_bar(), "", None
    try:
        while video["status"] in ("queued", "in_progress"):
            _raise_if_stopped()
            try:
                video, tag = calls.next_state(video, tag)
                away_since = None
            except Away:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > AWAY_SECONDS:
                    raise
                time.sleep(WAIT_SECONDS)
            show(int(video["progress"]))
    except BaseException:
        calls.cancel(video)
        raise
    if video["status"] != "completed":
        raise RuntimeError((video["error"] or {}).get("message") or f"The video was {video['status']}.")
    return video


# -- ComfyUI's values --------------------------------------------------------------------------------------------------


def png_of(image: Any) -> bytes:
    """Of the first picture of [B, H, W, C] from 0 to 1."""
    pixels = np.asarray(image[0].detach().cpu() if hasattr(image[0], "detach") else image[0], dtype=np.float32)
    picture = Image.fromarray((pixels[..., :3].clip(0, 1) * 255).round().astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def wav_of(audio: dict[str, Any]) -> bytes:
    """16 bits, of the first sound of `waveform` [B, C, T] from -1 to 1."""
    waveform = audio["waveform"][0]
    samples = np.asarray(waveform.detach().cpu() if hasattr(waveform, "detach") else waveform, dtype=np.float32)
    file: BinaryIO = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(samples.shape[0])
        sound.setsampwidth(2)
        sound.setframerate(int(audio["sample_rate"]))
        sound.writeframes((samples.T.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    file.seek(0)
    return file.read()


def video_of(path: Path) -> Any:
    """ComfyUI's own type of a video; the path as text where this ComfyUI has none."""
    try:
        from comfy_api.input_impl import VideoFromFile
    except ImportError:
        return str(path)
    return VideoFromFile(str(path))


def _folder() -> Path:
    try:
        from folder_paths import get_temp_directory
    except ImportError:
        return Path(tempfile.mkdtemp(prefix="ltx-a2v-"))
    folder = Path(get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _progress_bar() -> Callable[[int], None]:
    try:
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda _: None
    bar = ProgressBar(100)
    return lambda percent: bar.update_absolute(percent)


def _raise_if_stopped() -> None:
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
    except ImportError:
        return
    throw_exception_if_processing_interrupted()
