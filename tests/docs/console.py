"""Read the console blocks of a page and run them as a person would: in order, in one folder, with bash.

```console                          commands (`$ `, continued by `> `) are run; the lines below one are what it prints
```console title="Needs a cluster"  is not run: its commands must exist

A line of the shown output may leave out parts by `...`, and whole lines may be missing; the shown lines are in order.
A command ends with 0 unless the page shows otherwise (`|| echo "exit code $?"`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```console(?P<title>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of a page, and the output that the page shows below it."""

    text: str
    shown: tuple[str, ...]
    runs: bool

    def __str__(self) -> str:
        return self.text


def commands_of(page: Path) -> list[Command]:
    """List the commands of a page, in order."""
    return [command for found in _BLOCK.finditer(page.read_text()) for command in _commands(found)]


def _commands(block: re.Match[str]) -> Iterator[Command]:
    first, *entries = re.split(r"^\$ ", block["body"], flags=re.MULTILINE)
    assert not first.strip(), f"a console block begins without a command: {first}"
    for entry in entries:
        line, *rest = entry.splitlines()
        text = [line]
        while rest and rest[0].startswith("> "):
            text.append(rest.pop(0)[2:])
        shown = tuple(line for line in rest if line.strip() not in ("", "..."))
        yield Command(text="\n".join(text), shown=shown, runs="Needs" not in block["title"])


def run(command: Command, folder: Path) -> str:
    """Run `command` in `folder` and return its output; fails if the output differs from the page."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-c", command.text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    lines = iter(_plain(line) for line in done.stdout.splitlines())
    for wanted in command.shown:
        assert any(_pattern(wanted).fullmatch(line) for line in lines), f"$ {command}\nno {wanted!r} in\n{done.stdout}"
    return done.stdout


def _plain(line: str) -> str:
    return " ".join(line.split())


def _pattern(shown: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, _plain(shown).split("..."))))


def ours(text: str) -> list[str]:
    """List this package's commands in lines of shell."""
    return re.findall(r"^(vace-batch .*?)(?: \|\| | && | +# |$)", text.replace("\\\n", ""), re.MULTILINE)
