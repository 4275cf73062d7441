"""Decide which weights file a job may load, and set up ultralytics before its import."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from vace_batch.errors import ClipError
from vace_batch.log import quiet_environment

DEMO_DETECTOR = "demo"
"""The name of the package's own detector, of drawn balls, horses and cars."""


def prepare_ultralytics() -> None:
    """Set the environment that ultralytics reads at its import: no telemetry, installs, messages, or code from pickles.

    ULTRALYTICS_SAFE_LOAD makes it read a `.pt` by torch's `weights_only` loader against its list of known classes.
    """
    quiet_environment()
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"


def find_weights(name: str, *, configured: str | None, folders: Sequence[str] = (), pickles: Sequence[str] = ()) -> str:
    """Return the local file of the weights that a job or the configuration calls `name`.

    A manifest is untrusted. It may name only the `configured` weights, by path or file name, files inside `folders`,
    and the package's own `DEMO_DETECTOR`. An exported model in `folders` is data; any other file is read as a pickle
    and needs its SHA-256 in `pickles`. `download_release` fetches weights.

    Raises:
        ClipError: `weights_not_found`, `weights_not_allowed`.
    """
    if name == DEMO_DETECTOR:
        return _existing(str(Path(__file__).parents[1] / "demo" / "objects.onnx"))
    if configured is not None and name in (configured, Path(configured).name):
        return _existing(configured)
    inside = [candidate for folder in folders if (candidate := _inside(name, folder)) is not None]
    if not inside:
        allowed = _allowed(configured, folders)
        reason = f"weights {name!r} are not allowed (allowed: {allowed}); give their folder by --weights FOLDER"
        raise ClipError("weights_not_allowed", reason)
    path = next((str(path) for path in inside if _is_there(path)), None) or _existing(str(inside[0]))
    _check_pickle(path, pickles)
    return path


def _allowed(configured: str | None, folders: Sequence[str]) -> str:
    """List the weights and folders that a manifest may name, for a message."""
    names = [] if not configured else [configured]
    names += [f"{folder}/" for folder in folders]
    return ", ".join(names) or "none"


def missing_weights(kind: str, needed_by: str) -> ClipError:
    """Make the error of a job that needs a detector, segmenter, depth or pose network and gets no name of any."""
    column = "control_weights" if kind in ("depth", "pose") else kind
    needs = "needs" if needed_by.startswith("control") else "need"
    reason = f"{needed_by} {needs} weights: give --{kind} FILE, or name them in the column {column}"
    if column == "control_weights":
        return ClipError("no_control_weights", reason)
    return ClipError("no_detector" if kind == "detector" else "no_segmenter", reason)


def files_beside(weights: str, names: Iterable[str], *, trusted: bool, pickles: Sequence[str]) -> tuple[str, ...]:
    """Return the files of `names` that lie in the folder of `weights` and may be opened.

    All may be opened if the person who starts the run named the weights (`trusted`); else JSON files, and pickles by
    their SHA-256.
    """
    files = []
    for name in names:
        path = Path(weights).with_name(name)
        with suppress(ClipError):
            if path.is_file():
                if not trusted and path.suffix != ".json":
                    _check_pickle(str(path), pickles)
                files.append(str(path))
    return tuple(files)


def network_of(weights: str) -> str | None:
    """Return the network's file of an OpenVINO folder (`*.xml`, `*.bin`, `metadata.yaml`), None for anything else."""
    networks = sorted(Path(weights).glob("*.xml")) if os.path.isdir(weights) else []
    return str(networks[0]) if len(networks) == 1 else None


def is_exported(weights: str) -> bool:
    """Return whether weights are data that runs no code: an ONNX file or an OpenVINO folder."""
    return weights.lower().endswith(".onnx") or network_of(weights) is not None


def _check_pickle(path: str, pickles: Sequence[str]) -> None:
    """Raise `weights_not_allowed` for a pickle whose SHA-256 is not in `pickles`."""
    if is_exported(path):
        return
    stat = os.stat(path)
    if (digest := _sha256(path, stat.st_mtime_ns, stat.st_size)) not in pickles:
        reason = (
            f"weights {path}: a row may name a pickle only if its SHA-256 is allowed; expected an .onnx file, "
            "an OpenVINO folder"
        )
        raise ClipError("weights_not_allowed", f"{reason}, or --allow-pickle {digest}")


@lru_cache(maxsize=64)
def _sha256(path: str, stamp: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(name: str, folder: str) -> Path | None:
    """Resolve `name` in `folder`, links followed; None if it leads out of the folder."""
    root = Path(folder).resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) else None


def _is_there(path: str | Path) -> bool:
    return Path(path).is_file() or network_of(str(path)) is not None


def _existing(path: str) -> str:
    if not _is_there(path):
        raise ClipError("weights_not_found", f"weights {path}: no such file; give a path on this machine")
    return path
