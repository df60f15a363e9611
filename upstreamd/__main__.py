"""`python -m upstreamd`, and the entry point of the console script."""

from __future__ import annotations

import sys

from upstreamd.cli.app import perform


def main() -> None:
    """Performs the command that the process was started with, and ends with its exit code."""
    sys.exit(int(perform(sys.argv[1:])))


if __name__ == "__main__":
    main()
