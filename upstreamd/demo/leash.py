"""Runs a command that ends when the demo ends, even by SIGKILL: `leash.py PARENT COMMAND...` (Linux).

Started by its path, without site packages: it is on the way of every process the demo starts.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2); kept over execve(2)


def main() -> None:
    """Asks the kernel for SIGTERM at the parent's death, then becomes the command. Raises OSError."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(f"{command[0]} is not started: the demo (process {parent}) has ended")
    os.execvp(command[0], command)  # noqa: S606 - becoming the command is the purpose


if __name__ == "__main__":
    main()
