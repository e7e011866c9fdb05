"""diffusers' modules for LTX-2, imported without the optional libraries that diffusers can quantize with.

Where bitsandbytes is installed, diffusers imports it together with any model: that takes seconds, and where no kernel
for the CPU is found it logs a line that alarms. Our own modes import what they need themselves (`quantization/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import import_utils

_SWITCHES = ("_bitsandbytes_available", "_optimum_quanto_available", "_torchao_available", "_gguf_available")
"""Flags of diffusers: whether a library is installed."""


@contextmanager
def _without_quantizers() -> Iterator[None]:
    known = {name: getattr(import_utils, name) for name in _SWITCHES if hasattr(import_utils, name)}
    for name in known:
        setattr(import_utils, name, False)
    try:
        yield
    finally:
        for name, value in known.items():
            setattr(import_utils, name, value)


with _without_quantizers():
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

__all__ = [
    "AutoencoderKLLTX2Audio",
    "AutoencoderKLLTX2Video",
    "LTX2LatentUpsamplerModel",
    "LTX2TextConnectors",
    "LTX2VideoTransformer3DModel",
]
