"""Where the files of a model are: given one by one, or found by their names in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ltx_a2v.errors import InvalidModel, named
from ltx_a2v.settings.defaults import at_home


@dataclass(frozen=True, repr=False)
class ModelPaths:
    """The two or three files and the text encoder folder that a model consists of."""

    checkpoint: Path
    """Transformer, text connectors and VAEs, e.g. `ltx-2.3-22b-dev.safetensors`."""
    distilled_lora: Path | None
    """LoRA of stage 2, and of both stages in quality fast, e.g. `ltx-2.3-22b-distilled-lora-384-1.1.safetensors`. None
    says that the checkpoint itself is distilled, which its file does not tell: only quality fast can be made then."""
    spatial_upsampler: Path
    """Latent x2 upsampler, e.g. `ltx-2.3-spatial-upscaler-x2-1.1.safetensors`."""
    gemma_root: Path
    """Hugging Face folder of the text encoder, e.g. `gemma-3-12b-it-qat-q4_0-unquantized`."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            path = getattr(self, name)
            if path is not None:
                object.__setattr__(self, name, at_home(Path(path)))

    def __repr__(self) -> str:
        """The folder, where all files are in one, and their names in it."""
        paths = [str(getattr(self, name)) for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        folder = os.path.commonpath([os.path.abspath(path) for path in paths])  # noqa: PTH100  `Path` follows links
        return f"ModelPaths({', '.join(os.path.relpath(path, folder) for path in paths)} in {folder})"

    @classmethod
    def discover(
        cls,
        model_dir: str | Path,
        *,
        checkpoint: str | Path | None = None,
        distilled_lora: str | Path | None = None,
        spatial_upsampler: str | Path | None = None,
        gemma_root: str | Path | None = None,
        distilled_checkpoint: bool = False,
    ) -> ModelPaths:
        """Find the files that are not given by name, in `model_dir` or up to two folders below. With
        `distilled_checkpoint` no LoRA is looked for.

        Raises `InvalidModel` when a file is not found, or when several could be meant.
        """
        folder = at_home(Path(model_dir))
        check_folder(folder, "model folder")
        weights = [path for depth in _DEPTHS for path in sorted(folder.glob(f"{depth}*.safetensors"))]
        loras = [path for path in weights if "distilled-lora" in path.name]
        upsamplers = [path for path in weights if "spatial-upscaler-x2" in path.name]
        checkpoints = [path for path in weights if _is_checkpoint_name(path.name)]

        def given_or_only(given: str | Path | None, what: str, field: str, found: list[Path]) -> Path:
            return at_home(Path(given)) if given else _only(what, field, found, folder)

        return cls(
            given_or_only(checkpoint, "checkpoint (ltx-*.safetensors)", "checkpoint_path", checkpoints),
            None
            if distilled_checkpoint
            else given_or_only(
                distilled_lora, "distilled LoRA (*distilled-lora*.safetensors)", "distilled_lora_path", loras
            ),
            given_or_only(
                spatial_upsampler,
                "spatial upsampler (*spatial-upscaler-x2*.safetensors)",
                "spatial_upsampler_path",
                upsamplers,
            ),
            given_or_only(gemma_root, "text encoder folder (gemma*/)", "gemma_root", _gemma_folders(folder)),
        )

    def described(self) -> list[tuple[str, Path]]:
        """Every file with its name for errors."""
        files = [(named("checkpoint_path"), self.checkpoint), (named("spatial_upsampler_path"), self.spatial_upsampler)]
        if self.distilled_lora is not None:
            files.append((named("distilled_lora_path"), self.distilled_lora))
        return files + [(f"a file of {named('gemma_root')}", path) for path in sorted(self.gemma_root.glob("*"))]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of the file system, such as a too long name or a missing permission, become `InvalidModel`."""
    try:
        yield
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from error


def check_folder(path: Path, what: str) -> None:
    with readable(path):
        if path.is_file():
            raise InvalidModel(f"The {what} {path} is a file, not a folder.")
        if not path.is_dir():
            raise InvalidModel(f"The {what} {path} does not exist; `ltx-a2v get` downloads the model's files.")


_DEPTHS = ("", "*/", "*/*/")


def _is_checkpoint_name(name: str) -> bool:
    return name.startswith("ltx-2") and not any(word in name for word in ("lora", "upscaler", "upsampler"))


def _gemma_folders(model_dir: Path) -> list[Path]:
    folders = [path.parent for depth in _DEPTHS for path in sorted(model_dir.glob(f"{depth}gemma*/config.json"))]
    return list(dict.fromkeys(folders))


def _only(what: str, field: str, found: list[Path], model_dir: Path) -> Path:
    if not found:
        raise InvalidModel(
            f"No {what} was found in {model_dir}; put it there or give its path with {named(field)}; "
            f"`ltx-a2v get --dir {model_dir}` says where to download it."
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(model_dir)) for path in found)
        raise InvalidModel(f"{model_dir} has more than one {what}: {names}; choose one with {named(field)}.")
    return found[0]
