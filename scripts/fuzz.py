"""Feeds changed and random bytes to what strangers' bytes reach: `uv run python scripts/fuzz.py --minutes 10`.

Each target (`tests/fuzz/targets.py`) runs in a process of its own with 4 GiB of address space, where an input that
takes longer than 20 s, or that ends the process, is a finding too. Findings are saved as files; `--replay FILE` runs
one again. `--atheris form` searches by coverage of Python code, with `uv run --with atheris python scripts/fuzz.py`.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import multiprocessing
import random
import resource
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz.targets import SEEDS, TARGETS, changed

MEMORY = 4 * 2**30
STALLED = 20.0
"""Seconds: the server's checking process is killed after so long."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all, in turn")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; default: the time")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--replay", type=Path, help="a finding, as TARGET-….bin")
    parser.add_argument("--atheris", choices=TARGETS, help="a target, searched by coverage with atheris")
    options = parser.parse_args()
    if options.replay:
        TARGETS[options.replay.name.partition("-")[0]](options.replay.read_bytes())
        return 0
    if options.atheris:
        return _by_coverage(options.atheris, options.minutes * 60)
    names = options.target or list(TARGETS)
    seed = int(time.time()) if options.seed is None else options.seed
    found = 0
    for name in names:
        found += _fuzz(name, options.minutes * 60 / len(names), seed, options.findings)
    return 1 if found else 0


def _fuzz(name: str, seconds: float, seed: int, findings: Path) -> int:
    """Run one target for a while; the number of findings."""
    end, runs, found, slowest = time.monotonic() + seconds, 0, 0, 0.0
    while time.monotonic() < end:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_run, args=(name, seed, end, theirs))
        process.start()
        theirs.close()
        content, problem = b"", ""
        try:
            while not problem:
                if not ours.poll(STALLED):
                    problem = f"took longer than {STALLED:g} s"
                    break
                kind, value = ours.recv()
                if kind == "input":
                    content, began, runs = value, time.monotonic(), runs + 1
                elif kind == "done":
                    slowest = max(slowest, time.monotonic() - began)
                else:
                    problem = value
        except EOFError:
            process.join()
            if process.exitcode:
                problem = f"ended the process ({process.exitcode})"
        process.kill()
        process.join()
        ours.close()
        if problem:
            found += 1
            findings.mkdir(exist_ok=True)
            file = findings / f"{name}-{seed}.bin"
            file.write_bytes(content)
            _say(f"{name}: {file}: {problem}")
        seed += 1
    _say(f"{name}: {runs} inputs in {seconds:.0f} s, slowest {slowest:.2f} s, {found} findings")
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(name: str, seed: int, end: float, server: Connection) -> None:
    """Says each input before it runs it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    logging.disable()  # parsers log each mistake
    choose, seeds, target = random.Random(seed), SEEDS[name](), TARGETS[name]
    while time.monotonic() < end:
        content = choose.randbytes(choose.randrange(300)) if choose.random() < 0.05 else choose.choice(seeds)
        content = changed(content, choose)
        server.send(("input", content))
        try:
            target(content)
        except BaseException:
            server.send(("problem", traceback.format_exc()))
            return
        server.send(("done", None))


def _by_coverage(name: str, seconds: float) -> int:
    import atheris

    for module in [module for key, module in sys.modules.items() if key.startswith("ltx_a2v.")]:
        for value in vars(module).values():
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
                atheris.instrument_func(value)
    corpus = Path(f"fuzz-corpus/{name}")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(SEEDS[name]()):
        (corpus / f"seed-{number}").write_bytes(content)
    arguments = [sys.argv[0], f"-max_total_time={seconds:.0f}", f"-timeout={STALLED:.0f}", "-rss_limit_mb=4096"]
    atheris.Setup([*arguments, str(corpus)], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
