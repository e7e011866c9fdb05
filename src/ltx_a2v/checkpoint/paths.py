"""Where the files of a model are: given one by one, or found by their names in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltx_a2v.errors import InvalidModel


@dataclass(frozen=True)
class ModelPaths:
    checkpoint: Path
    """Transformer, text connectors and VAEs, e.g. `ltx-2.3-22b-dev.safetensors`."""
    distilled_lora: Path
    """LoRA of stage 2, e.g. `ltx-2.3-22b-distilled-lora-384-1.1.safetensors`."""
    spatial_upsampler: Path
    """Latent x2 upsampler, e.g. `ltx-2.3-spatial-upscaler-x2-1.1.safetensors`."""
    gemma_root: Path
    """Hugging Face folder of the text encoder, e.g. `gemma-3-12b-it-qat-q4_0-unquantized`."""

    @classmethod
    def discover(
        cls,
        model_dir: Path,
        *,
        checkpoint: Path | None = None,
        distilled_lora: Path | None = None,
        spatial_upsampler: Path | None = None,
        gemma_root: Path | None = None,
    ) -> ModelPaths:
        """Find what is not given by name in `model_dir` or two folders below.

        Raises `InvalidModel` when a file is not found, or when several could be meant.
        """
        if not model_dir.is_dir():
            raise InvalidModel(f"The model folder {model_dir} does not exist.")
        weights = [path for depth in _DEPTHS for path in sorted(model_dir.glob(f"{depth}*.safetensors"))]
        loras = [path for path in weights if "distilled-lora" in path.name]
        upsamplers = [path for path in weights if "spatial-upscaler-x2" in path.name]
        checkpoints = [path for path in weights if _is_checkpoint_name(path.name)]
        return cls(
            checkpoint or _only("checkpoint (ltx-2.3-*.safetensors)", "--checkpoint-path", checkpoints, model_dir),
            distilled_lora
            or _only("distilled LoRA (*distilled-lora*.safetensors)", "--distilled-lora-path", loras, model_dir),
            spatial_upsampler
            or _only(
                "spatial upsampler (*spatial-upscaler-x2*.safetensors)",
                "--spatial-upsampler-path",
                upsamplers,
                model_dir,
            ),
            gemma_root or _only("text encoder folder (gemma*/)", "--gemma-root", _gemma_folders(model_dir), model_dir),
        )


_DEPTHS = ("", "*/", "*/*/")


def _is_checkpoint_name(name: str) -> bool:
    return name.startswith("ltx-2") and not any(word in name for word in ("lora", "upscaler", "upsampler"))


def _gemma_folders(model_dir: Path) -> list[Path]:
    folders = [path.parent for depth in _DEPTHS for path in sorted(model_dir.glob(f"{depth}gemma*/config.json"))]
    return list(dict.fromkeys(folders))


def _only(what: str, flag: str, found: list[Path], model_dir: Path) -> Path:
    if not found:
        raise InvalidModel(f"No {what} was found in {model_dir}; put it there or give its path with {flag}.")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(model_dir)) for path in found)
        raise InvalidModel(f"{model_dir} has more than one {what}: {names}; choose one with {flag}.")
    return found[0]
