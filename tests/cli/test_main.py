"""What all commands share: help, and how they are stopped."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


def test_help_into_a_full_disk() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m ltx_a2v --help >/dev/full"], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_help_does_not_load_torch() -> None:
    script = "import sys, ltx_a2v.cli.main as c\ntry: c.main(['generate', '--help'])\nexcept SystemExit: pass\n"
    done = subprocess.run([sys.executable, "-c", script + "assert 'torch' not in sys.modules"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_libraries_are_imported(number: signal.Signals) -> None:
    script = "import os, sys\nfrom ltx_a2v.cli.stopping import importing\n"
    script += f"try:\n with importing(): os.kill(os.getpid(), {int(number)})\nexcept BaseException: sys.exit(1)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "ltx-a2v: stopped; nothing was written.\n"
