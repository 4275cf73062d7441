"""Read a Dockerfile, and replay one of its stages in a plain Debian root, without a container engine.

    debootstrap --variant=minbase --include=ca-certificates,python3-venv bookworm ROOT
    python -m tests.infra.dockerfile infra/docker/Dockerfile gpu ROOT FOLDER

ROOT stands in for the base image: it needs a `python` of the version in the image's tag. FOLDER gets one root a stage.
Needs root, for chroot. Only ENV, ARG, RUN, COPY, USER and WORKDIR are replayed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `word` in upper case, `line` its first line, counted from 1."""

    word: str
    rest: str
    line: int


@dataclass(slots=True)
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def instructions(text: str) -> Iterator[Instruction]:
    """List the instructions of a Dockerfile, with continued lines joined and comments left out."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or (not line.strip() and not parts):
            continue
        first = first if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            word, _, rest = " ".join(parts).partition(" ")
            yield Instruction(word.upper(), rest.strip(), first)
            parts = []


def stages(text: str) -> tuple[list[Instruction], list[Stage]]:
    """Split into the instructions before the first FROM and the stages, in order."""
    before: list[Instruction] = []
    found: list[Stage] = []
    for instruction in instructions(text):
        if instruction.word == "FROM":
            base, _, name = instruction.rest.partition(" AS ")
            found.append(Stage(name or str(len(found)), base))
        else:
            (found[-1].instructions if found else before).append(instruction)
    return before, found


def assignments(rest: str) -> dict[str, str]:
    """Parse `A=b C="d e"`, the form of ENV, ARG and LABEL."""
    return dict(part.partition("=")[::2] for part in shlex.split(rest))


@dataclass(slots=True)
class Replay:
    """Replays stages one after the other, each in its own root below `folder`."""

    stages: dict[str, Stage]
    plain: Path
    folder: Path
    arguments: dict[str, str]
    environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def make(self, name: str) -> Path:
        """Return the root of a stage after all its instructions; made once.

        Raises:
            subprocess.CalledProcessError: a RUN failed.
        """
        root, stage = self.folder / name, self.stages[name]
        if name in self.environments:
            return root
        start = self.make(stage.base) if stage.base in self.stages else self.plain
        environment = dict(
            self.environments.get(stage.base, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        )
        subprocess.run(["cp", "-a", "--reflink=auto", start, root], check=True)
        user, place = "root", environment.get("PWD", "/")
        for step in stage.instructions:
            print(f"== {name}:{step.line} {step.word} {step.rest[:100]}", flush=True)
            if step.word == "ENV":
                environment |= {key: self._expand(value, environment) for key, value in assignments(step.rest).items()}
            elif step.word == "ARG":
                environment |= {key: self.arguments.get(key, value) for key, value in assignments(step.rest).items()}
            elif step.word == "WORKDIR":
                place = step.rest
                (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.word == "USER":
                user = step.rest
            elif step.word == "RUN":
                self.run(root, environment, user, place, step.rest)
            elif step.word == "COPY":
                self._copy(root, place, step.rest)
        self.environments[name] = environment | {"PWD": place}
        return root

    def run(self, root: Path, environment: dict[str, str], user: str, place: str, command: str) -> None:
        """Run a shell command in a root."""
        network = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "http", "HTTP"))}
        shell = f"cd {shlex.quote(place)} && {command}"
        chroot = [
            "chroot",
            *([f"--userspec={user}:{user}"] if user != "root" else []),
            str(root),
            "/bin/sh",
            "-ec",
            shell,
        ]
        subprocess.run(chroot, env={**network, **environment, "HOME": "/tmp"}, check=True)

    def _copy(self, root: Path, place: str, rest: str) -> None:
        flags, words = [], shlex.split(rest)
        while words[0].startswith("--"):
            flags.append(words.pop(0))
        stage = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), None)
        origin = self.make(stage) if stage else ROOT
        *sources, target = words
        aim = root / os.path.join(place, target).lstrip("/")
        for source in sources:
            found = origin / source.lstrip("/")
            into = aim / found.name if target.endswith("/") and found.is_file() else aim
            into.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                shutil.copytree(found, into, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(found, into)

    def _expand(self, value: str, environment: dict[str, str]) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda match: environment.get(match[1], ""), value)


def main(dockerfile: str, target: str, plain: str, folder: str, *arguments: str) -> None:
    _, found = stages(Path(dockerfile).read_text())
    given = dict(argument.split("=", 1) for argument in arguments)
    replay = Replay({stage.name: stage for stage in found}, Path(plain), Path(folder), given)
    root = replay.make(target)
    environment = replay.environments[target]
    place = environment["PWD"]
    for command in ("vace-batch --version", "prefect version", "ray --version", "id"):
        replay.run(root, environment, "1000", place, command)
    print(json.dumps({"environment": environment, "root": str(root)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
