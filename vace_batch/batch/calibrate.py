"""Measure a machine for predictions of cost.

A synthetic clip goes through the run's own steps at two sizes, windows of several shapes go through the model, and the
rates are fitted to the measured times. Steps are measured in processor time with one thread, as in an actor, so that
other work on the machine matters little; a GPU is measured in wall-clock time.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from vace_batch.batch.identity import mask_models, works_of
from vace_batch.costs import ByteRates, Calibration, CpuRates, Rate, Speed
from vace_batch.geometry import Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.masks.weights import DEMO_DETECTOR
from vace_batch.options import Options
from vace_batch.steps import build as build_step
from vace_batch.steps import stitch as stitch_step
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.generate import generate
from vace_batch.steps.measure import measure
from vace_batch.steps.prepare import prepare, survey
from vace_batch.storage import files as storage
from vace_batch.vace import profiles
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU
from vace_batch.video.writer import write_clip

if TYPE_CHECKING:
    import torch

    from vace_batch.vace.engine import VaceEngine

_SIZES = (Size(320, 180), Size(960, 540))
_FRAMES = 33
_SHAPES = ((9, Size(128, 128), 1), (33, Size(256, 256), 1), (33, Size(256, 256), 3))
"""Frames, size and tenths of the steps of a window; they vary, so that transformer, VAE and constant can be fitted."""

_LARGE = (832, 480)
_STEPS_SHARE = 10

_T = TypeVar("_T")
Seconds = dict[str, float]


def calibrate(model: str, detector: str | None = None) -> Calibration:
    """Measure this machine with `model`, and with `detector` for `targets` (by default the demo's).

    Takes a minute or two without a GPU.

    Raises:
        UsageError: the model cannot be loaded.
    """
    from vace_batch.vace.loading import open_engine

    options = Options(model=model, detector=detector or DEMO_DETECTOR)
    with _one_thread():
        engine = open_engine(model, texts=("",))
        try:
            speed = _speed(engine, profiles.profile(model))
            _clip(_SIZES[0], options, engine)  # warms up: what is imported on the way, the first frames of a codec
            clips = [_clip(size, options, engine) for size in _SIZES]
            device = _device_name(engine.model.device)
        finally:
            engine.close()
    return Calibration(
        machine=f"{device}, {os.cpu_count()} cores of {platform.machine()}",
        measured_at=datetime.now(UTC).strftime("%Y-%m-%d"),
        cpu=CpuRates(**{name: _rate([seconds[name] for seconds, _ in clips]) for name in CpuRates.model_fields}),
        bytes=ByteRates(**{name: sum(sizes[name] for _, sizes in clips) / len(clips) for name in _BYTES}),
        models={model: speed},
    )


_BYTES = tuple(ByteRates.model_fields)


def _device_name(device: torch.device) -> str:
    import torch

    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "no GPU"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch and OpenCV use one thread each, as in an actor of one core."""
    import torch

    torch_threads = torch.get_num_threads()
    cv2_threads = cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)


def _rate(seconds: Sequence[float]) -> Rate:
    """Fit core-seconds per frame at both sizes by a constant per frame and a rate per million pixels."""
    mpx = [size.width * size.height / 1e6 for size in _SIZES]
    frame, per_mpx = nnls(np.array([[1.0, each] for each in mpx]), np.array(seconds))[0]
    return Rate(frame=round(float(frame), 6), mpx=round(float(per_mpx), 6))


# --- the model -------------------------------------------------------------------------------------------------------


def _speed(engine: VaceEngine, profile: profiles.ModelProfile) -> Speed:
    """Fit a window's device seconds: a constant, a rate per TFLOP of the transformer, a rate per TFLOP of the VAE."""
    shapes = list(_SHAPES)
    clock = time.process_time
    if engine.model.device.type == "cuda":
        clock = time.perf_counter
        shapes.append((profile.max_frames, Size(*_LARGE), 1))  # large windows use a GPU better than small ones
    sampling = profile.sampling("removal")
    each = max(1, sampling.num_inference_steps // _STEPS_SHARE)
    rows: list[list[float]] = []
    seconds: list[float] = []
    for frames, size, parts in [shapes[0], *shapes]:  # the first warms up
        sampled = replace(sampling, num_inference_steps=each * parts)
        vcu = _half_masked(frames, size, sampled)
        started = clock()
        engine.generate([vcu])
        seconds.append(clock() - started)
        rows.append([1.0, *(flop / 1e12 for flop in profile.window_parts(frames, size, sampled, guided=False))])
    weights = 1 / np.array(seconds[1:])  # fit relative errors, not those of the longest window
    call, transformer, vae = nnls(np.array(rows[1:]) * weights[:, None], np.ones(len(weights)))[0]
    return Speed(call_s=round(float(call), 4), transformer_s=float(transformer), vae_s=float(vae))


def _half_masked(frames: int, size: Size, sampling: ResolvedSampling) -> VCU:
    shape = (frames, size.height, size.width)
    mask = np.zeros(shape, np.bool_)
    mask[:, : size.height // 2] = True
    return VCU(
        window_id="calibration",
        frames_THWC=np.full((*shape, 3), 90, np.uint8),
        mask_THW=mask,
        neutral_THW=mask,
        negative_prompt="",
        sampling=sampling,
    )


# --- the steps -------------------------------------------------------------------------------------------------------


def _clip(size: Size, options: Options, engine: VaceEngine) -> tuple[Seconds, dict[str, float]]:
    """Measure one clip of `size`: core-seconds per frame of each step, and the rates of bytes."""
    with tempfile.TemporaryDirectory(prefix="vace-batch-") as name:
        folder = Path(name)
        path = str(folder / "clip.mp4")
        write_clip(path, _frames_of(size), rate=Fraction(25), crf=20)
        job = Job(job_id="a", video_uri=path, task="removal", boxes=_boxes(size))
        jobs = (
            job,
            replace(job, job_id="b", background="off"),
            replace(job, job_id="c", background="off", boxes=(), targets=("ball",)),
        )
        recovered, generated, looked = works_of(jobs, str(folder / "out"), options, name)
        models = mask_models(options)
        bare, _ = _timed(lambda: survey(generated, models, folder, look=False))
        whole, plan = _timed(lambda: prepare(recovered, models))
        seen, _ = _timed(lambda: survey(looked, models, folder))
        seconds = {"scan": bare, "background": max(0.0, whole - bare), "look": max(0.0, seen - bare)}
        more, windows = _made(generated, models, engine)
        sizes = _file_sizes(Ledger(recovered.out), plan) | windows
        return {name: spent / _FRAMES for name, spent in seconds.items()} | more, sizes


def _made(work: ClipWork, models: MaskModels, engine: VaceEngine) -> tuple[Seconds, dict[str, float]]:
    """Measure build, stitch and quality in core-seconds per frame, and the rates of bytes, by the run's own steps."""
    plan = prepare(work, models)
    ledger = Ledger(work.out)
    build = pixels = stored = frames = 0.0
    for planned in plan.windows:
        spent, vcu = _timed(partial(build_step.build, work, plan, planned))
        [record] = generate([vcu], engine, work.out)()
        if isinstance(record, Exception):
            raise record
        build += spent
        frames += planned.window.stop - planned.window.start
        pixels += vcu.num_frames * vcu.size.width * vcu.size.height
        stored += storage.num_bytes(ledger.absolute(record["artifact"]))
    stitch, _ = _timed(lambda: stitch_step.stitch(work, plan))
    quality, _ = _timed(lambda: measure(work, plan, models))
    video = storage.num_bytes(ledger.absolute(work.output)) / plan.source_bytes
    seconds = {"build": build / frames, "stitch": stitch / _FRAMES, "quality": quality / _FRAMES}
    return seconds, {"window": stored / pixels * 1e6, "video": video}


def _file_sizes(ledger: Ledger, plan: ClipPlan) -> dict[str, float]:
    """Bytes of the plan's files per million pixels of masked frames."""
    mpx = plan.masked_frames * plan.size.width * plan.size.height / 1e6
    sizes = {kind: storage.num_bytes(ledger.absolute(name)) for kind, name in plan.files.items()}
    masks = sizes.pop("masks", 0)
    return {"masks": masks / mpx, "background": sum(sizes.values()) / mpx}


def _timed(do: Callable[[], _T]) -> tuple[float, _T]:
    started = time.process_time()
    result = do()
    return time.process_time() - started, result


def _frames_of(size: Size) -> Iterator[NDArray[np.uint8]]:
    """Draw frames of a disc that crosses a textured ground under a panning camera."""
    width, height = size.width, size.height
    noise = np.random.default_rng(7).uniform(-127, 127, (height, width + _FRAMES, 3)).astype(np.float32)
    ground = 120 + cv2.GaussianBlur(noise, (0, 0), 1.5) * 0.3 + cv2.GaussianBlur(noise, (0, 0), height / 12) * 8
    y, x = np.mgrid[:height, :width]
    for index in range(_FRAMES):
        disc = (x - _centre(size, index)) ** 2 + (y - height / 2) ** 2 < (height / 8) ** 2
        frame = np.where(disc[..., None], (225, 220, 205), ground[:, index : index + width])
        yield frame.clip(0, 255).astype(np.uint8)


def _centre(size: Size, index: int) -> float:
    return size.width * (0.2 + 0.6 * index / (_FRAMES - 1))


def _boxes(size: Size) -> tuple[BoxKey, ...]:
    side = size.height / 4 + 4
    return tuple(
        BoxKey(x=_centre(size, index) - side / 2, y=size.height / 2 - side / 2, width=side, height=side, frame=index)
        for index in (0, _FRAMES - 1)
    )
