"""The entry point of `vace-batch` and `python -m vace_batch`: catches SIGTERM before the command line is imported."""

from __future__ import annotations

import signal
import sys
from types import FrameType

EXIT_INTERRUPTED = 130
"""As in `vace_batch.cli.running`, whose import takes a second."""


def main() -> None:
    """Run the command line. SIGTERM and Ctrl-C end it with exit code 130 from the first moment on."""
    signal.signal(signal.SIGTERM, _end)
    try:
        from vace_batch.cli.app import main as run_command

        run_command()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _end(signum: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
