"""Make the project's virtual environment, or find that it is already the right one.

The environment holds a stamp with the hash of what decides its content: constraints.txt and the packaging part of
pyproject.toml. Same hash: nothing to do. Same hash, other checkout: only the editable install is redone. An install
that was interrupted leaves a marker, and the next one starts from an empty folder. A lock on the folder keeps two
makes apart.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAMP = ".vace-batch.json"
MARKER = ".vace-batch-installing"
EXTRAS = "prefect,s3,ocr,openvino,docs,dev"


def stamp_of(root: Path) -> dict[str, str]:
    """Return the stamp of an environment for the checkout at `root`."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    packaging = {"build-system": project["build-system"], "project": project["project"], "extras": EXTRAS}
    digest = hashlib.sha256(json.dumps(packaging, sort_keys=True).encode())
    digest.update((root / "constraints.txt").read_bytes())
    return {"pins": digest.hexdigest(), "checkout": str(root), "python": ".".join(map(str, sys.version_info[:2]))}


def need(folder: Path, wanted: dict[str, str]) -> str:
    """Return the action that `folder` needs: nothing, editable, install or rebuild."""
    if (folder / MARKER).exists():
        return "rebuild"
    if not (folder / STAMP).exists():
        return "install" if works(folder) else "rebuild"
    found = json.loads((folder / STAMP).read_text())
    if found["python"] != wanted["python"] or not works(folder):
        return "rebuild"
    if found["pins"] != wanted["pins"]:
        return "install"
    return "nothing" if found["checkout"] == wanted["checkout"] else "editable"


def works(folder: Path) -> bool:
    """Whether `folder` holds a virtual environment whose Python still starts and has pip."""
    python = folder / "bin" / "python"
    return python.exists() and subprocess.run([python, "-c", "import pip"], capture_output=True).returncode == 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; another one waits here, and the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another install into {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def clear(folder: Path) -> None:
    """Empty `folder` for a new environment.

    Raises:
        SystemExit: the folder holds something that is not a virtual environment.
    """
    if any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists() and not (folder / MARKER).exists():
        sys.exit(f"{folder} is neither empty nor a virtual environment: set VACE_BATCH_VENV to another path")
    (folder / MARKER).touch()
    say(f"creating {folder} with Python {sys.version.split()[0]}")
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARKER:  # it stays to the end: a folder that was left half empty is known by it
            entry.unlink()
    venv.EnvBuilder(with_pip=True).create(folder)


def pip(folder: Path, root: Path, *arguments: str) -> None:
    """Run the pip of `folder` in `root`.

    Raises:
        SystemExit: pip failed; its own words are above.
    """
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, cwd=root)
    if done.returncode:
        sys.exit(f"pip failed (exit {done.returncode}); run the same make again once the cause above is gone")


def install(folder: Path, root: Path) -> None:
    """Install the pinned packages and this checkout, editable.

    ultralytics asks for opencv-python, whose library needs libGL, libxcb and glib from the system; a bare server has
    none of them. The headless wheel of the same version is the same `cv2` without windows, so it takes its place.
    """
    say("installing the pinned packages (about 7 GB on disk, minutes on a fast line)")
    pinned = ["install", "-c", str(root / "constraints.txt")]
    pip(folder, root, *pinned, "setuptools")
    pip(folder, root, *pinned, "--no-build-isolation", "-e", f"{root}[{EXTRAS}]")
    pip(folder, root, "uninstall", "--yes", "opencv-python")
    pip(folder, root, *pinned, "--no-deps", "--force-reinstall", "opencv-python-headless")


def bring_up(folder: Path, root: Path) -> str:
    """Make `folder` the environment of the checkout at `root`; returns what was done."""
    wanted = stamp_of(root)
    with locked(folder):
        todo = need(folder, wanted)
        if todo == "nothing":
            return todo
        if todo == "rebuild":
            clear(folder)
        (folder / MARKER).touch()
        (folder / STAMP).unlink(missing_ok=True)
        if todo == "editable":
            pip(folder, root, "install", "--no-deps", "--no-build-isolation", "-e", str(root))
        else:
            install(folder, root)
        (folder / STAMP).write_text(json.dumps(wanted))
        (folder / MARKER).unlink()
        return todo


def say(text: str) -> None:
    print(f"env: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        bring_up(Path(sys.argv[1]).absolute(), Path(__file__).resolve().parent.parent)
    except KeyboardInterrupt:
        sys.exit(130)
