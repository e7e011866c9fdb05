"""Builds docs/ as a static site with Sphinx; broken links between pages and to their headings are errors.

    make site        # build/site/index.html

Pages are copied first: CHANGELOG.md and CONTRIBUTING.md become pages, and links to other files of the repository become
their names. Entries of `NAVIGATION` without a page are left out; pages without an entry come last.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[1]
SOURCE, SITE = ROOT / "build" / "site-source", ROOT / "build" / "site"
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
NAVIGATION = {
    "Use": (
        *("install", "get-the-files", "choosing-a-mode", "prompting", "voice", "long-speech", "retake"),
        *("checking-sync", "page", "batch", "command-line", "python", "http-api", "connections", "troubleshooting"),
    ),
    "Compare": ("comparison", "benchmarks", "benchmarks-appendix"),
    "Understand": ("how-it-works", "architecture", "puppet", "security", "contributing", "changelog"),
}
CONFIG = """
project = html_title = "ltx-a2v"
extensions = ["myst_parser"]
html_theme = "furo"
myst_heading_anchors = 3
suppress_warnings = []
html_show_sphinx = html_show_copyright = html_copy_source = html_show_sourcelink = False
"""


def main() -> int:
    for folder in (SOURCE, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE)
    for name, page in FROM_ROOT.items():
        (SOURCE / page).write_text((ROOT / name).read_text().replace("](docs/", "]("))
    for path in SOURCE.glob("*.md"):
        path.write_text(_within_the_site(path.read_text()))
    index = SOURCE / "index.md"
    index.write_text(index.read_text() + _navigation({path.stem for path in SOURCE.glob("*.md")}))
    (SOURCE / "conf.py").write_text(CONFIG)
    return build_main(["-q", "-W", "--keep-going", "-b", "html", str(SOURCE), str(SITE)])


def _within_the_site(text: str) -> str:
    for name, page in FROM_ROOT.items():
        text = text.replace(f"](../{name}", f"]({page}")
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"`\1`", text)


def _navigation(pages: set[str]) -> str:
    """The table of contents, for the side of every page."""
    text, listed = "", {name for names in NAVIGATION.values() for name in names}
    others = tuple(sorted(pages - listed - {"index"}))
    for title, names in {**NAVIGATION, **({"More": others} if others else {})}.items():
        entries = "\n".join(name for name in names if name in pages)
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
