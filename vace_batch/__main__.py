"""The entry point of `vace-batch` and `python -m vace_batch`: catches SIGTERM, and supervises commands that use Ray.

Ray ends the process that uses it, by `_exit(1)` and without a message, as soon as that process touches the object store
of a raylet that is gone. Nothing inside the process can catch this end, so such commands run in a child process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType

from vace_batch.imports import quick_imports

EXIT_LOST, EXIT_INTERRUPTED = 4, 130
"""As in `vace_batch.cli.running`, whose import takes a second."""

WITH_RAY = ("run", "retry", "demo", "train")
_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CONTINUES = "; the same command continues the run"


def main() -> None:
    """Run the command line. SIGTERM and Ctrl-C end it with exit code 130 from the first moment on."""
    signal.signal(signal.SIGTERM, _end_now)
    signal.signal(signal.SIGINT, _end_now)
    if sys.platform == "linux" and sys.argv[1:2] and sys.argv[1] in WITH_RAY:
        _supervise()
    else:
        _run_command()


def _run_command() -> None:
    try:
        with quick_imports():
            from vace_batch.cli.app import main as run_command

        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run_command()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _end_now(signum: int, frame: FrameType | None) -> None:
    """End the process while modules are imported, where some code swallows every exception."""
    os._exit(EXIT_INTERRUPTED)


def _end(signum: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_INTERRUPTED)


def _supervise() -> None:
    """Run the command in a child process, pass signals on, and end with the child's exit code.

    The child tells its exit code through a pipe; a child that ends without doing so was ended by Ray or killed.
    The child has a process group of its own, so that Ctrl-C reaches it once, through this process.
    """
    parent = os.getpid()
    ended, end = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        os.close(ended)
        _run_child(parent, end)
        return
    os.close(end)

    def pass_on(signum: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signum)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    _, status = os.waitpid(child, 0)
    code = _exit_code(os.waitstatus_to_exitcode(status), _byte_of(ended))
    sys.stderr.flush()
    os._exit(code if code >= 0 else 128 - code)


def _run_child(parent: int, end: int) -> None:
    """Run the command in the child process of `parent`, and write its exit code to the pipe `end`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_INTERRUPTED)
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    code = 1
    try:
        _run_command()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        raise
    finally:
        sys.stdout.flush()
        os.write(end, bytes([code]))


def _exit_code(code: int, told: int | None) -> int:
    """Return the run's exit code: the code the child told, else its status; report a child that was ended."""
    if told is None and code == 1:
        sys.stderr.write(f"error: Ray, whose raylet or head is gone, ended the run{_CONTINUES}\n")
        return EXIT_LOST
    if told is None and code < 0:
        sys.stderr.write(f"error: signal {-code} killed the run{_CONTINUES}\n")
    return code if told is None else told  # `told` also where Ray aborts the process at its very end


def _byte_of(descriptor: int) -> int | None:
    """Return the byte in a pipe, or None. A process that the child forked may keep the pipe open, so do not wait."""
    os.set_blocking(descriptor, False)
    try:
        return next(iter(os.read(descriptor, 1)), None)
    except BlockingIOError:
        return None


if __name__ == "__main__":
    main()
