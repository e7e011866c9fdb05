"""Mistakes in a request's files, found from their headers in a fraction of a second, before torch is imported."""

from __future__ import annotations

from ltx_a2v.errors import named
from ltx_a2v.media.output_file import check_output_file, check_overwrites_nothing
from ltx_a2v.request import GenerationRequest


def check_files(request: GenerationRequest) -> None:
    """Raises `InvalidOutput`, `InvalidImage` and `InvalidAudio`; what needs all of a file is checked again later."""
    from ltx_a2v.media.picture import picture_size
    from ltx_a2v.media.sound.decode import audio_seconds

    check_output_file(request.output_path, ".mp4", "video.mp4")
    if request.save_latents is not None:
        check_output_file(request.save_latents, None, "latents.safetensors")
    check_overwrites_nothing(
        {named("output_path"): request.output_path, named("save_latents"): request.save_latents},
        [*((named("image"), picture.file) for picture in request.pictures), (named("audio"), request.audio)],
    )
    for picture in request.pictures:
        picture_size(picture.file)
    audio_seconds(request.audio, request.audio_start_time, at_most=0.1)
