"""Is this machine able to run a batch? Each check says what was found; none of them stops the others."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vace_batch import profiles, storage
from vace_batch.cluster.resources import count_gpus
from vace_batch.errors import VaceBatchError

_PACKAGES = ("torch", "diffusers", "transformers", "ray", "av", "opencv-python", "pyarrow", "ultralytics", "prefect")
_TRIAL_FRAMES, _TRIAL_SIDE = 9, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(model: str, out: str | None) -> list[Check]:
    """Check packages, cores, GPUs, the output folder and one small window through `model`."""
    checks = list(_packages())
    checks.append(Check(name="python", ok=True, found=f"{platform.python_version()} on {platform.platform()}"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    checks.append(
        Check(name="machine", ok=True, found=f"{os.cpu_count()} cores, {memory:.1f} GiB, {count_gpus()} GPUs")
    )
    if out is not None:
        checks.append(_tried("storage", lambda: _storage(out)))
    checks.append(_tried("model", lambda: _window(model)))
    return checks


def _packages() -> Iterator[Check]:
    for name in _PACKAGES:
        try:
            yield Check(name=name, ok=True, found=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            optional = name in ("prefect", "ultralytics")
            yield Check(name=name, ok=optional, found="not installed" + (" (optional)" if optional else ""))


def _tried(name: str, trial: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, found=trial())
    except (VaceBatchError, OSError, ImportError, RuntimeError, ValueError) as error:
        return Check(name=name, ok=False, found=f"{type(error).__name__}: {error}")


def _storage(out: str) -> str:
    uri = storage.join(out, f".doctor-{uuid.uuid4().hex}")
    started = time.monotonic()
    try:
        first, second = storage.create_exclusive(uri, b"1"), storage.create_exclusive(uri, b"2")
        took = (time.monotonic() - started) / 2
        if not first or second or storage.read_bytes(uri) != b"1":
            raise OSError(f"{out}: exclusive creation does not hold here; two runs could both win")
    finally:
        storage.delete(uri)
    return f"{out}: writable, exclusive creation holds, {took * 1000:.1f} ms a record"


def _window(model: str) -> str:
    import numpy as np

    from vace_batch.vace.engine import VaceEngine
    from vace_batch.vace.model import load
    from vace_batch.vcu import VCU

    sampling = profiles.profile(model).sampling("removal")
    started = time.monotonic()
    engine = VaceEngine(load(model))
    loaded = time.monotonic()
    shape = (_TRIAL_FRAMES, _TRIAL_SIDE, _TRIAL_SIDE)
    frames = np.full((*shape, 3), 127, np.uint8)
    mask = np.ones(shape, np.bool_)
    engine.generate([VCU(window_id="doctor", frames_THWC=frames, mask_THW=mask, neutral_THW=mask, sampling=sampling)])
    took = time.monotonic() - loaded
    size = f"{_TRIAL_SIDE}x{_TRIAL_SIDE}x{_TRIAL_FRAMES}"
    return f"{model} loads in {loaded - started:.1f} s, one window of {size} in {took:.1f} s"
