"""Runs the steps of examples/Containerfile in a scratch folder, where no container engine is at hand.

    uv run python scripts/container_steps.py [--folder SCRATCH]

`/` of the image is the folder: COPY, WORKDIR, ENV, `uv sync`, the entry point and the health check are carried out
there. Steps that change a system (`apt-get`, `useradd`), the base image and the other user are named and left out. The
server listens on 127.0.0.1 and a free port, and its /models holds the miniature.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ltx_a2v.puppet import puppet_paths

ROOT = Path(__file__).parents[1]
CONTAINERFILE = ROOT / "examples" / "Containerfile"
LEFT_OUT = re.compile(r"apt-get|useradd")
UV = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


class Image:
    """The scratch folder, and what steps have set so far."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._here = root
        self._environment = dict(os.environ)
        self._environment.pop("VIRTUAL_ENV", None)
        self._health: list[str] = []
        (root / "data").mkdir(parents=True)
        shutil.copytree(puppet_paths().checkpoint.parent, root / "models")

    def step(self, instruction: str, rest: str) -> str:
        """Carries one out; what is to be said of it."""
        match instruction:
            case "WORKDIR":
                self._here = self._inside(rest)
                self._here.mkdir(parents=True, exist_ok=True)
            case "COPY" if rest.startswith("--from"):
                return f"left out: {UV} is used"
            case "COPY":
                *sources, target = rest.split()
                self._copy(sources, self._here / target)
            case "RUN" if LEFT_OUT.search(rest):
                return "left out: it changes the system"
            case "RUN":
                command = [UV if part == "uv" else part for part in shlex.split(rest)]
                subprocess.run(command, cwd=self._here, env=self._environment, check=True)
            case "ENV":
                name, _, value = rest.partition("=")
                paths = value.replace("$PATH", self._environment["PATH"]).split(":")
                self._environment[name] = ":".join([str(self._inside(paths[0])), *paths[1:]])
            case "HEALTHCHECK":
                self._health = json.loads(rest.removeprefix("CMD "))
            case "ENTRYPOINT":
                return self._serve(json.loads(rest))
            case _:
                return "left out: it says something to the engine"
        return "done"

    def _inside(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _copy(self, sources: list[str], target: Path) -> None:
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, target)

    def _serve(self, command: list[str]) -> str:
        """Starts the entry point, and asks it as the health check does."""
        inside = [str(self._inside(part)) if part.startswith("/") else part for part in command]
        inside += ["--host", "127.0.0.1", "--port", "0"]
        environment = {**self._environment, "LTX_A2V_API_KEY": "scratch"}
        program = shutil.which(inside[0], path=environment["PATH"])
        assert program is not None
        server = subprocess.Popen([program, *inside[1:]], env=environment, stderr=subprocess.PIPE, text=True)
        try:
            port = self._port(server)
            check = [part.replace("8892", port) for part in self._health]
            started = time.monotonic()
            subprocess.run(check, env=environment, check=True, timeout=30)
            return f"done: {program} listens, and is healthy after {time.monotonic() - started:.1f} s"
        finally:
            server.terminate()
            server.communicate(timeout=60)

    def _port(self, server: subprocess.Popen[str]) -> str:
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.search(r"listening on http://\S+:(\d+)", line):
                return found[1]
        raise SystemExit("The server ended before it listened.")


def steps(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            yield instruction, rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="an empty folder to use and keep")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        image = Image((given or Path(scratch)).absolute())
        for instruction, rest in steps(CONTAINERFILE.read_text()):
            sys.stderr.write(f"{instruction} {rest}\n")
            sys.stderr.write(f"    {image.step(instruction, rest)}\n")


if __name__ == "__main__":
    main()
