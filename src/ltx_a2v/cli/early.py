"""Mistakes in the files of a request and of the model, found from their headers before torch is imported."""

from __future__ import annotations

from pathlib import Path

from ltx_a2v.checkpoint.config import read_config
from ltx_a2v.checkpoint.gemma import GemmaFiles
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import named
from ltx_a2v.media.output_file import check_output_file, check_overwrites_nothing
from ltx_a2v.request import GenerationRequest
from ltx_a2v.settings.model import ModelSettings
from ltx_a2v.versions import version_of


def check_files(request: GenerationRequest, spoken: bool = False) -> None:
    """Raises `InvalidOutput`, `InvalidImage` and `InvalidAudio`; what needs all of a file is checked again later.

    Where the sound is `spoken`, it is an output still to be written.
    """
    from ltx_a2v.media.picture import picture_size
    from ltx_a2v.media.sound.decode import audio_seconds

    check_output_file(request.output_path, ".mp4", "video.mp4")
    if request.save_latents is not None:
        check_output_file(request.save_latents, None, "latents.safetensors")
    sound = request.audio
    outputs = {named("output_path"): request.output_path, named("save_latents"): request.save_latents}
    inputs: list[tuple[str, Path | None]] = [(named("image"), picture.file) for picture in request.pictures]
    check_overwrites_nothing(
        {**outputs, "The spoken sound": sound} if spoken else outputs,
        inputs if spoken else [*inputs, (named("audio"), sound)],
    )
    for picture in request.pictures:
        picture_size(picture.file)
    if spoken:
        check_output_file(sound, ".wav", "video.wav")
    else:
        audio_seconds(sound, request.audio_start_time, at_most=0.1)


def check_model(settings: ModelSettings) -> None:
    """Raises `InvalidModel` for files that are missing, foreign or cut short, or of another model, and what
    `settings.check` raises. Whether each tensor fits its network is checked when the model is opened."""
    settings.check()
    paths = settings.model_paths
    checkpoint = SafetensorsFile.open(paths.checkpoint)
    version = version_of(checkpoint.path, checkpoint.metadata, read_config(checkpoint))
    SafetensorsFile.open(paths.spatial_upsampler)
    for lora in (paths.distilled_lora, *(style.path for style in settings.loras)):
        if lora is not None:
            LoraFile.open(lora, version.keys.lora)
    encoder = version.text_encoder
    GemmaFiles.open(paths.gemma_root, encoder.model_type, f"{version.name} needs {encoder.name}")
