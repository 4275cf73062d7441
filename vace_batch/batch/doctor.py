"""Is this machine able to run a batch? Each check says what was found; none of them stops the others."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from vace_batch.batch.progress import duration
from vace_batch.cluster.machines import count_gpus
from vace_batch.costs import Speed
from vace_batch.errors import VaceBatchError
from vace_batch.geometry import Size, token_count
from vace_batch.storage import files as storage
from vace_batch.vace import profiles

_PACKAGES = ("torch", "diffusers", "transformers", "ray", "av", "opencv-python", "pyarrow", "ultralytics", "prefect")
_TRIAL_FRAMES, _TRIAL_SIDE = 9, 128
_BUCKETS = ((256, 256), (384, 384), (512, 512), (832, 480), (1280, 720))
_TOO_SLOW_S = 1800.0
_FULL_SHARE = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(model: str, out: str | None, calibration: str | None = None, detector: str | None = None) -> list[Check]:
    """Check packages, cores, GPUs, the output folder and one small window through `model`.

    With `calibration`, the path or URI of a file, the machine is measured and the rates are written there.
    """
    checks = list(_packages())
    checks.append(Check(name="python", ok=True, found=f"{platform.python_version()} on {platform.platform()}"))
    memory = _machine_bytes() / 2**30
    checks.append(
        Check(name="machine", ok=True, found=f"{os.cpu_count()} cores, {memory:.1f} GiB, {count_gpus()} GPUs")
    )
    if out is not None:
        checks.append(_tried("storage", lambda: _storage(out)))
    checks += _model(model)
    if calibration is not None:
        checks.append(_tried("calibration", lambda: _calibration(calibration, model, detector)))
    return checks


def _packages() -> Iterator[Check]:
    for name in _PACKAGES:
        version = _version(name) or _version(f"{name}-headless")
        optional = name in ("prefect", "ultralytics")
        missing = "not installed" + (" (optional)" if optional else "")
        yield Check(name=name, ok=optional or version is not None, found=version or missing)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


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


def _calibration(uri: str, model: str, detector: str | None) -> str:
    from vace_batch.batch.calibrate import calibrate

    found = calibrate(model, detector)
    storage.publish(uri, (found.model_dump_json(indent=1) + "\n").encode())
    return f"{uri}: what `plan --calibration` and `run --calibration` reckon with"


def _model(model: str) -> Iterator[Check]:
    """Load the model, run one small window twice (the first time warms up) and say what the others will take."""
    try:
        trial = _run_trial(model)
    except (VaceBatchError, OSError, ImportError, RuntimeError, ValueError) as error:
        yield Check(name="model", ok=False, found=f"{type(error).__name__}: {error}")
        return
    profile, sampling = profiles.profile(model), profiles.profile(model).sampling("removal")
    yield Check(
        name="model",
        ok=True,
        found=f"{model} ({trial.revision[:12]}, {trial.dtype} on {trial.device}) loads in {trial.load_s:.1f} s; "
        f"memory {trial.loaded_gib:.2f} GiB with weights, {trial.peak_gib:.2f} GiB at most",
        details=asdict(trial),
    )
    flop = profile.window_flop(_TRIAL_FRAMES, trial.size, sampling, guided=False)
    sustained = flop / trial.window_s / 1e12
    yield Check(
        name="window",
        ok=True,
        found=f"one of {trial.size}x{_TRIAL_FRAMES} in {trial.window_s:.2f} s, {sampling.num_inference_steps} steps of "
        f"one forward: {sustained:.3g} TFLOP/s",
        details={"tflop": flop / 1e12, "tflops": sustained},
    )
    seconds = dict(_projected(profile, sustained))
    yield Check(
        name="projection",
        ok=True,
        found=f"a window of {profile.max_frames} frames takes about "
        + ", ".join(f"{duration(took)} at {size}" for size, took in seconds.items())
        + "; larger windows use a GPU better than the small one that was measured",
        details={str(size): took for size, took in seconds.items()},
    )
    yield from (Check(name="advice", ok=True, found=advice) for advice in _advice(profile, trial, seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What loading a model and running one small window took; memory is the GPU's, without one the process's."""

    revision: str
    device: str
    dtype: str
    size: Size
    load_s: float
    window_s: float
    loaded_gib: float
    peak_gib: float
    total_gib: float


def _run_trial(model: str) -> Trial:
    import numpy as np
    import torch

    from vace_batch.vace.engine import VaceEngine
    from vace_batch.vace.model import load
    from vace_batch.vcu.unit import VCU

    profile = profiles.profile(model)
    started = time.monotonic()
    engine = VaceEngine(load(model))
    loaded_s = time.monotonic() - started
    place = engine.model.device
    loaded = _memory_gib(torch, place)
    size = Size(_TRIAL_SIDE, _TRIAL_SIDE)
    shape = (_TRIAL_FRAMES, _TRIAL_SIDE, _TRIAL_SIDE)
    mask = np.zeros(shape, np.bool_)
    mask[:, : _TRIAL_SIDE // 2] = True
    vcu = VCU(
        window_id="doctor",
        frames_THWC=np.full((*shape, 3), 90, np.uint8),
        mask_THW=mask,
        neutral_THW=mask,
        negative_prompt="",
        sampling=profile.sampling("removal"),
    )
    took = 0.0
    for _ in range(2):
        started = time.monotonic()
        engine.generate([vcu])
        took = time.monotonic() - started
    total = torch.cuda.get_device_properties(place).total_memory if place.type == "cuda" else _machine_bytes()
    return Trial(
        revision=engine.model.revision,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        dtype=str(engine.model.dtype).removeprefix("torch."),
        size=size,
        load_s=loaded_s,
        window_s=took,
        loaded_gib=loaded,
        peak_gib=_memory_gib(torch, place, peak=True),
        total_gib=total / 2**30,
    )


def _memory_gib(torch: Any, place: Any, *, peak: bool = False) -> float:
    if place.type == "cuda":
        used = torch.cuda.max_memory_allocated(place) if peak else torch.cuda.memory_allocated(place)
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return float(used) / 2**30


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _projected(profile: profiles.ModelProfile, tflops: float) -> Iterator[tuple[Size, float]]:
    sampling = profile.sampling("removal")
    for width, height in _BUCKETS:
        size = Size(width, height)
        if token_count(profile.max_frames, size) <= profile.max_tokens:
            parts = profile.window_parts(profile.max_frames, size, sampling, guided=False)
            yield size, Speed.sustained(tflops).seconds(*parts)


def _advice(profile: profiles.ModelProfile, trial: Trial, seconds: dict[Size, float]) -> Iterator[str]:
    """What to change, where the numbers say so."""
    slowest = max(seconds.values(), default=0.0)
    if trial.device.startswith("CPU") and slowest > _TOO_SLOW_S:
        yield f"a window takes up to {duration(slowest)} here: run {profile.name} on a machine with a GPU"
    if trial.peak_gib > _FULL_SHARE * trial.total_gib:
        yield (
            f"{trial.peak_gib:.1f} of {trial.total_gib:.1f} GiB are in use for the smallest window: "
            "keep weights as fp8, or blocks in host memory (`vace-batch run --help`: storage, offload)"
        )
    if not trial.device.startswith("CPU") and trial.dtype == "float32":
        yield "float32 on a GPU: bfloat16 is several times as fast"
    if slowest > _TOO_SLOW_S and not trial.device.startswith("CPU"):
        yield "a few-step LoRA (preset fast) or fewer steps (sampling.num_inference_steps) shorten it in proportion"
