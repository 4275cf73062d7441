"""Check whether this machine can run a batch; a failed check does not stop the others."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vace_batch.batch.progress import duration
from vace_batch.cluster.machines import count_gpus
from vace_batch.costs import Speed
from vace_batch.errors import VaceBatchError
from vace_batch.geometry import Size, token_count
from vace_batch.storage import files as storage
from vace_batch.vace import profiles

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "diffusers", "transformers", "ray", "av", "opencv-python", "pyarrow", "ultralytics", "prefect")
_TRIAL_FRAMES, _TRIAL_SIDE = 9, 128
_BUCKETS = ((256, 256), (384, 384), (512, 512), (832, 480), (1280, 720))
_TOO_SLOW_S = 1800.0
_FULL_SHARE = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Result of one check."""

    name: str
    ok: bool
    result: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(model: str, out: str | None, calibration: str | None = None, detector: str | None = None) -> list[Check]:
    """Check packages, cores, GPUs, the output folder and one small window through `model`.

    `calibration`: path or URI of a file; the machine is also measured, and the rates are written to this file.
    """
    checks = list(_packages())
    checks.append(Check(name="python", ok=True, result=f"{platform.python_version()} on {platform.platform()}"))
    memory = _machine_bytes() / 2**30
    checks.append(
        Check(name="machine", ok=True, result=f"{os.cpu_count()} cores, {memory:.1f} GiB, {count_gpus()} GPUs")
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
        yield Check(name=name, ok=optional or version is not None, result=version or missing)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tried(name: str, trial: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, result=trial())
    except (VaceBatchError, OSError, ImportError, RuntimeError, ValueError) as error:
        return Check(name=name, ok=False, result=f"{type(error).__name__}: {error}")


def _storage(out: str) -> str:
    uri = storage.join(out, f".doctor-{uuid.uuid4().hex}")
    started = time.monotonic()
    try:
        first = storage.create_exclusive(uri, b"1")
        second = storage.create_exclusive(uri, b"2")
        took = (time.monotonic() - started) / 2
        if not first or second or storage.read_bytes(uri) != b"1":
            raise OSError(f"{out}: exclusive creation does not work here; two runs could write the same record")
    finally:
        storage.delete(uri)
    return f"{out}: writable, exclusive creation works, {took * 1000:.1f} ms a record"


def _calibration(uri: str, model: str, detector: str | None) -> str:
    from vace_batch.batch.calibrate import calibrate

    rates = calibrate(model, detector)
    storage.publish(uri, (rates.model_dump_json(indent=1) + "\n").encode())
    return f"{uri}: rates for `plan --calibration` and `run --calibration`"


def _model(model: str) -> Iterator[Check]:
    """Load the model, run one small window twice (the first run warms up) and predict the time of larger windows."""
    try:
        trial = _run_trial(model)
    except (VaceBatchError, OSError, ImportError, RuntimeError, ValueError) as error:
        yield Check(name="model", ok=False, result=f"{type(error).__name__}: {error}")
        return
    profile = profiles.profile(model)
    sampling = profile.sampling("removal")
    yield Check(
        name="model",
        ok=True,
        result=f"{model} ({trial.revision[:12]}, {trial.dtype} on {trial.device}) loads in {trial.load_s:.1f} s; "
        f"memory {trial.loaded_gib:.2f} GiB with weights, {trial.peak_gib:.2f} GiB at most",
        details=asdict(trial),
    )
    flop = profile.window_flop(_TRIAL_FRAMES, trial.size, sampling, guided=False)
    sustained = flop / trial.window_s / 1e12
    yield Check(
        name="window",
        ok=True,
        result=f"{trial.size}x{_TRIAL_FRAMES} in {trial.window_s:.2f} s, {sampling.num_inference_steps} steps of "
        f"one forward: {sustained:.3g} TFLOP/s",
        details={"tflop": flop / 1e12, "tflops": sustained},
    )
    seconds = dict(_projected(profile, sustained))
    yield Check(
        name="projection",
        ok=True,
        result=f"a window of {profile.max_frames} frames takes about "
        + ", ".join(f"{duration(took)} at {size}" for size, took in seconds.items())
        + "; larger windows use a GPU more efficiently than the small measured window",
        details={str(size): took for size, took in seconds.items()},
    )
    yield from (Check(name="advice", ok=True, result=advice) for advice in _advice(profile, trial, seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Time and memory of loading a model and running one small window; memory of the GPU, else of the process."""

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
    device = engine.model.device
    loaded = _memory_gib(device)
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
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else f"CPU, {torch.get_num_threads()} threads"
    total = torch.cuda.get_device_properties(device).total_memory if is_gpu else _machine_bytes()
    return Trial(
        revision=engine.model.revision,
        device=name,
        dtype=str(engine.model.dtype).removeprefix("torch."),
        size=size,
        load_s=loaded_s,
        window_s=took,
        loaded_gib=loaded,
        peak_gib=_memory_gib(device, peak=True),
        total_gib=total / 2**30,
    )


def _memory_gib(device: torch.device, *, peak: bool = False) -> float:
    import torch

    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
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
    """Advice where a window takes too long or memory is nearly full."""
    slowest = max(seconds.values(), default=0.0)
    if trial.device.startswith("CPU") and slowest > _TOO_SLOW_S:
        yield f"a window takes up to {duration(slowest)} here: run {profile.name} on a machine with a GPU"
    if trial.peak_gib > _FULL_SHARE * trial.total_gib:
        yield (
            f"{trial.peak_gib:.1f} of {trial.total_gib:.1f} GiB are in use for the smallest window: "
            "keep weights as fp8 (--engine storage=fp8), or blocks in host memory (--engine offload=group)"
        )
    if not trial.device.startswith("CPU") and trial.dtype == "float32":
        yield "float32 on a GPU: bfloat16 is several times as fast"
    if slowest > _TOO_SLOW_S and not trial.device.startswith("CPU"):
        yield "a few-step LoRA (preset fast) or fewer steps (sampling.num_inference_steps) take less time in proportion"
