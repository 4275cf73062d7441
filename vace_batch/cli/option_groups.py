"""Options that several commands have, by group: what reads them, and how a command comes to have them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from vace_batch.cli.options import (
    AllowPickle,
    AllowRoot,
    CalibrationFile,
    CpuActors,
    Crf,
    Depth,
    DetectEvery,
    Detector,
    EngineOption,
    FeatherPx,
    GpuActors,
    KeepMasks,
    Limits,
    LoraFiles,
    MaxBatch,
    MaxCost,
    MaxGpuHours,
    MinCpuActors,
    MinGpuActors,
    Model,
    PayloadMb,
    Pose,
    PresetValues,
    PriceValues,
    QualityOption,
    Retries,
    RetryModel,
    Segmenter,
    TimeLimit,
    Tracker,
    Weights,
)
from vace_batch.cli.parsing import (
    parse_engine,
    parse_kept,
    parse_limits,
    parse_loras,
    parse_pickles,
    parse_presets,
    parse_prices,
    parse_quality,
    parse_roots,
    parse_tracker,
    read_calibration,
)
from vace_batch.costs import BudgetSettings
from vace_batch.options import AttemptSettings, Options

Fields = dict[str, Any]


def takes(*groups: Callable[..., Fields]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the groups' options; it gets what they say as its argument `options`, an `Options`."""

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        own = {name: one for name, one in _parameters(command).items() if name != "options"}
        theirs = [(group, _parameters(group)) for group in groups]

        @functools.wraps(command)
        def whole(**given: Any) -> None:
            fields: Fields = {}
            for group, names in theirs:
                fields |= group(**{name: given[name] for name in names})
            command(**{name: given[name] for name in own}, options=Options(**fields))

        every = {name: one for names in (own, *(names for _, names in theirs)) for name, one in names.items()}
        # Typer reads a command's parameters here, and nowhere else.
        whole.__dict__.pop("__wrapped__")
        whole.__dict__["__signature__"] = inspect.Signature(list(every.values()))
        whole.__annotations__ = {name: one.annotation for name, one in every.items()}
        return whole

    return wrap


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return {
        name: one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, one in inspect.signature(function).parameters.items()
    }


def finders(detector: Detector = None, segmenter: Segmenter = None, tracker: Tracker = "bytetrack") -> Fields:
    """What finds the objects."""
    return {"detector": detector, "segmenter": segmenter, "tracker": parse_tracker(tracker)}


def places(
    weights: Weights = None, allow_pickle: AllowPickle = None, allow_root: AllowRoot = None, limit: Limits = None
) -> Fields:
    """What rows may read, and how large it may be."""
    return {
        "weights_folders": tuple(weights or ()),
        "pickles": parse_pickles(allow_pickle),
        "allow_roots": parse_roots(allow_root),
        "media": parse_limits(limit),
    }


def pixels(
    model: Model = "tiny",
    depth: Depth = None,
    pose: Pose = None,
    lora: LoraFiles = None,
    preset: PresetValues = None,
    engine: EngineOption = None,
    detect_every: DetectEvery = 4,
    crf: Crf = None,
    feather_px: FeatherPx = 2,
) -> Fields:
    """What else decides the results."""
    return {
        "model": model,
        "depth": depth,
        "pose": pose,
        "loras": parse_loras(lora),
        "presets": parse_presets(preset),
        "engine": parse_engine(engine),
        "detect_every": detect_every,
        "crf": crf,
        "feather_px": feather_px,
    }


def actors(
    cpu_actors: CpuActors = None,
    gpu_actors: GpuActors = None,
    min_cpu_actors: MinCpuActors = None,
    min_gpu_actors: MinGpuActors = None,
    max_batch: MaxBatch = 4,
    payload_mb: PayloadMb = 2048,
    unit_time_limit: TimeLimit = 3600,
) -> Fields:
    """How many processes work, how much each takes at once, and how long."""
    return {
        "cpu_actors": cpu_actors,
        "gpu_actors": gpu_actors,
        "min_cpu_actors": min_cpu_actors,
        "min_gpu_actors": min_gpu_actors,
        "max_batch": max_batch,
        "payload_mb": payload_mb,
        "unit_time_limit_s": unit_time_limit,
    }


def afterwards(
    keep_masks: KeepMasks = None, quality: QualityOption = None, retries: Retries = 0, retry_model: RetryModel = None
) -> Fields:
    """What is looked at, kept and tried again."""
    return {
        "keep_masks": parse_kept(keep_masks),
        "quality": parse_quality(quality),
        "attempts": AttemptSettings(max_attempts=retries + 1, model=retry_model),
    }


def costs(price: PriceValues = None, calibration: CalibrationFile = None) -> Fields:
    """What costs are predicted and reckoned with."""
    return {"prices": parse_prices(price), "calibration": read_calibration(calibration)}


def bounds(max_gpu_hours: MaxGpuHours = None, max_cost: MaxCost = None) -> Fields:
    """Where a run stops by itself."""
    return {"budget": BudgetSettings(max_gpu_hours=max_gpu_hours, max_cost=max_cost)}
