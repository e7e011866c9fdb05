"""`ltx-a2v get`: downloads the model's files, or prints how, and says which of them are there and whole."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ltx_a2v.cli.output import say, write_out
from ltx_a2v.cli.parser import Parser
from ltx_a2v.errors import A2VError, InvalidOutput, MissingExtra
from ltx_a2v.settings.defaults import at_home
from ltx_a2v.versions import NEWEST

HELP = "download the model's files, or print how; resumes, and checks what is there"
EXAMPLES = (
    ("what is missing in a folder, and the commands that bring it", "get --dir ~/models/ltx --print"),
    ("download it, about 78 GB", "get --dir ~/models/ltx"),
)
MISSING = 1
"""The exit code where files are missing or not whole."""
HUB = "https://huggingface.co"
LTX, GEMMA = f"Lightricks/{NEWEST.name}", "google/gemma-3-12b-it-qat-q4_0-unquantized"
LICENCES = {
    LTX: "LTX-2 Community License; read it on that page, and accept it there if the page asks for it",
    GEMMA: "Gemma Terms of Use; accept them on that page while logged in, then run `hf auth login`",
}
IGNORED = ("*.gguf", "*.bin", "*.pt", "original/*")
"""What is not read of a text encoder's repository."""


@dataclass(frozen=True)
class Part:
    """One file of a repository, or a whole repository where `file` is empty."""

    repository: str
    file: str
    place: str
    """Its name in the folder."""
    gigabytes: float
    """Rounded; the hub says the exact size."""


PARTS = (
    Part(LTX, NEWEST.files.checkpoint, NEWEST.files.checkpoint, 46),
    Part(LTX, NEWEST.files.distilled_lora, NEWEST.files.distilled_lora, 7.5),
    Part(LTX, NEWEST.files.spatial_upsampler, NEWEST.files.spatial_upsampler, 1),
    Part(GEMMA, "", NEWEST.files.gemma, 24),
)


def add_flags(parser: Parser) -> None:
    parser.everyday.add_argument("--dir", type=Path, required=True, help="Folder for the files, as ~/models/ltx.")
    parser.everyday.add_argument(
        "--print", action="store_true", help="Print what is missing and the commands, and download nothing."
    )


def run(arguments: argparse.Namespace) -> int:
    folder = at_home(arguments.dir)
    missing = [part for part in PARTS if _state(folder / part.place)]
    write_out(_listing(folder, missing))
    if arguments.print and missing:
        return MISSING
    if missing and find_spec("huggingface_hub") is None:
        raise MissingExtra("Downloading", "get")
    for part in missing:
        _download(part, folder)
    broken = [f"{part.place}: {state}" for part in PARTS if (state := _state(folder / part.place))]
    if broken:
        raise A2VError(f"Not whole after the download: {', '.join(broken)}; run the command again.")
    write_out(f"All files are there and whole. Next: ltx-a2v plan --model-dir {shlex.quote(str(folder))}\n")
    return 0


def _listing(folder: Path, missing: list[Part]) -> str:
    """The state of each file, and for those that are missing: sources, licences and commands."""
    lines = [f"{part.place}: {_state(folder / part.place) or 'there and whole'}" for part in PARTS]
    if missing:
        total = sum(part.gigabytes for part in missing)
        lines += ["", f"To download, about {total:g} GB (sizes are rounded; the hub says the exact ones):"]
        for part in missing:
            lines += [f"  # about {part.gigabytes:g} GB from {HUB}/{part.repository}", f"  {_command(part, folder)}"]
        lines += ["", "Licences:"]
        lines += [f"  {HUB}/{name}: {LICENCES[name]}" for name in dict.fromkeys(part.repository for part in missing)]
        lines += [
            "",
            "The commands resume where they were interrupted; `hf` is installed next to ltx-a2v.",
        ]
    return "\n".join(lines) + "\n"


def commands(folder: Path) -> list[str]:
    """What downloads every part into `folder`."""
    return [_command(part, folder) for part in PARTS]


def _command(part: Part, folder: Path) -> str:
    if part.file:
        return shlex.join(["hf", "download", part.repository, part.file, "--local-dir", str(folder)])
    return shlex.join(["hf", "download", part.repository, "--local-dir", str(folder / part.place)])


def _download(part: Part, folder: Path) -> None:
    """With huggingface_hub, which resumes and checks each file's size. Raises `A2VError`, which says what to do."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise A2VError("Nothing can be downloaded while HF_HUB_OFFLINE is set; unset it and try again.")
    import huggingface_hub as hub
    from huggingface_hub import errors

    say(f"ltx-a2v get: {part.place} from {HUB}/{part.repository} ...")
    try:
        if part.file:
            hub.hf_hub_download(part.repository, part.file, local_dir=folder)
        else:
            hub.snapshot_download(part.repository, local_dir=folder / part.place, ignore_patterns=list(IGNORED))
    except errors.GatedRepoError as error:
        raise A2VError(
            f"{HUB}/{part.repository} asks for its terms to be accepted: do that there, run `hf auth login`, then this "
            "command again."
        ) from error
    except errors.EntryNotFoundError as error:
        raise A2VError(f"{HUB}/{part.repository} has no file {part.file}; look for its new name there.") from error
    except PermissionError as error:
        raise InvalidOutput(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error
    except (OSError, errors.HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise A2VError(f"The download stopped: {reason}; run the command again, it resumes.") from error


def _state(path: Path) -> str:
    """Why a file, or the folder of a text encoder, cannot be used; empty where it is whole by its own header."""
    if path.suffix == ".safetensors":
        return _file_state(path)
    if not (path / "config.json").is_file():
        return "missing"
    names = sorted({*_listed_files(path)} or {file.name for file in path.glob("*.safetensors")})
    states = {name: _file_state(path / name) for name in names}
    return ", ".join(f"{name} {state}" for name, state in states.items() if state) if names else "without weights"


def _listed_files(folder: Path) -> Iterator[str]:
    """The files of weights that the folder's index names."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        yield from index["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


def _file_state(path: Path) -> str:
    """A safetensors file's header says where its last tensor ends."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, size)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return "not a whole safetensors file"
    whole = 8 + length + max(ends, default=0)
    return "" if size == whole else f"not whole: {size} of {whole} bytes"
