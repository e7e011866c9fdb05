"""The `ltx-a2v` command, also as `python -m ltx_a2v`: stoppable before its imports are done."""

from __future__ import annotations

import sys

from ltx_a2v.cli.stopping import importing


def main() -> int:
    with importing():
        from ltx_a2v.cli import main as cli
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
