"""The supervisor of the entry point passes exit codes and signals on, and tells of an end without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONTINUES = "; the same command continues the run\n"
ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, signal, sys, time
import vace_batch.__main__ as entry
def command():
{body}
entry._run_command = command
sys.argv[1:] = ["run"]
entry.main()
"""


def supervised(body: str) -> subprocess.Popen[str]:
    code = SCRIPT.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(1)", 1, ""),
        ("raise KeyError('a bug')", 1, "KeyError: 'a bug'\n"),
        ("os._exit(4)", 4, ""),
        (
            "os._exit(1)",
            4,
            f"error: Ray, whose raylet or head is gone, ended the run{CONTINUES}",
        ),
        ("import atexit; atexit.register(os.abort); sys.exit(130)", 130, ""),
        ("os.kill(os.getpid(), 9)", 137, f"error: signal 9 killed the run{CONTINUES}"),
    ],
)
def test_an_exit_code_passes_and_an_end_without_one_is_told(body: str, code: int, message: str) -> None:
    with supervised(body) as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code and stderr.endswith(message) and (message or not stderr), stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_run(number: signal.Signals) -> None:
    body = f"signal.signal({int(number)}, lambda *_: sys.exit(130)); print('ready', flush=True); time.sleep(60)"
    with supervised(body) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(10) == 130


def test_the_run_dies_with_its_supervisor() -> None:
    with supervised("print(os.getpid(), flush=True); time.sleep(60)") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        begin = time.monotonic()
        process.kill()
        assert process.stdout.read() == ""  # ends with the run, which holds the other end
        assert time.monotonic() - begin < 10


SWALLOWS = """
import os, signal, sys, time
sys.argv = ["vace-batch", "validate", "m.parquet"]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "vace_batch.cli.app":
            try:
                os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
                time.sleep(1)
            except BaseException:
                pass

sys.meta_path.insert(0, Finder())
from vace_batch.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_import_that_swallows_exceptions_swallows_no_signal(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS],
        env={**os.environ, "SIGNAL": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")
