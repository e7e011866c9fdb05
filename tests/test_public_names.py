"""What the package promises."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import ltx_a2v


def test_every_public_name_is_there_and_sorted() -> None:
    assert ltx_a2v.__all__ == sorted(ltx_a2v.__all__)
    for name in set(ltx_a2v.__all__) - {"Event"}:  # a union of the others, which has no home
        assert getattr(ltx_a2v, name).__module__.startswith("ltx_a2v.")


def test_the_version_is_the_installed_packages() -> None:
    assert ltx_a2v.__version__ == version("ltx-a2v")


def test_requests_do_not_load_torch() -> None:
    script = "import sys; from ltx_a2v import GenerationRequest, Guidance, A2VError; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
