"""Choose the next remedy for a clip that does not pass: one change an attempt, on top of the best attempt so far.

Pure decisions; `batch/graph.py` runs the attempts and `steps/select_best.py` keeps the best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vace_batch.manifest.choices import MASK_SHAPES, MaskShape
from vace_batch.manifest.job import Dilation, Job, Sampling
from vace_batch.options import AttemptSettings
from vace_batch.quality.verdict import VERDICTS, VerdictName

FIRST = "first"
"""Name of the attempt that follows the job as asked."""

_MASK = ("dilate", "hull", "box")
_MODEL = ("removal-lora", "seed", "model")
_REMEDIES: dict[str, tuple[str, ...]] = {
    "residual": (*_MASK, *_MODEL, "background"),
    "uncovered": _MASK,
    "detected": (*_MASK, *_MODEL, "background"),
    "foreign": (*_MASK, *_MODEL, "background"),
    "seam": (*_MASK, "background", *_MODEL),
    "appeared": (*_MODEL, "hull", "box", "background"),
    "gray": ("seed", "removal-lora", "crop", "model"),
    "flicker": ("removal-lora", "seed", "dilate", "background", "model"),
    "step": ("seed", "background", "model"),
    "blur": ("crop", "model", "removal-lora", "seed"),
    "texture": ("seed", "model", "removal-lora", "background"),
    "unlike": ("seed", "background", "removal-lora", "model"),
}
"""Remedies by the check that found a fault, the cheapest and likeliest first."""

_VARIED = ("dilate", "mask_shape", "seed", "background", "preset")
_WIDER = 2.5
_LEAST_FRAMES = 17
_OTHER_SEED = 7919


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One finished attempt at a clip: its remedy and its outcome. `output` is the attempt's file in OUT."""

    remedy: str
    job: Job
    model: str
    clip_key: str
    output: str
    max_frames: int
    verdict: VerdictName = "fail"
    score: float = float("inf")
    reasons: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    windows: int = 0
    gpu_s: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Sort key: best first, by verdict, then by score; failed attempts last."""
        return self.error is not None, VERDICTS.index(self.verdict), self.score

    @property
    def settings(self) -> dict[str, Any]:
        """The values that attempts differ in, as the ledger and the report show them."""
        values: dict[str, Any] = {name: getattr(self.job, name) for name in _VARIED}
        if self.job.dilate is not None:
            amounts = asdict(self.job.dilate).items()
            values["dilate"] = " ".join(f"{value:g} {unit}" for unit, value in amounts if value is not None)
        return values | {"model": self.model, "max_frames": self.max_frames}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """The next attempt: the remedy's name, the changed job, the model."""

    name: str
    job: Job
    model: str


def best_of(attempts: Sequence[Attempt]) -> int:
    """Find the index of the best attempt; of equal ones the first."""
    return min(range(len(attempts)), key=lambda number: (attempts[number].rank, number))


def next_remedy(attempts: Sequence[Attempt], settings: AttemptSettings, *, has_lora: bool = False) -> Remedy | None:
    """Choose the remedy after these attempts; None if the best attempt passes, or attempts or remedies are used up.

    `has_lora`: the run has a LoRA for the preset removal-lora.
    """
    best = attempts[best_of(attempts)]
    if best.verdict == "pass" or len(attempts) >= settings.max_attempts:
        return None
    excluded = {attempt.remedy for attempt in attempts}
    if not has_lora:
        excluded.add("removal-lora")
    for name in _suggested(best.checks):
        if name in excluded or name not in settings.remedies:
            continue
        remedy = _other_model(best, settings.model) if name == "model" else _changed_job(best, name)
        if remedy is not None:
            return remedy
    return None


def _suggested(checks: Sequence[str]) -> list[str]:
    """List the remedies for the checks that found a fault, without repeats, the cheapest and likeliest first."""
    return list(dict.fromkeys(name for check in checks for name in _REMEDIES.get(check, ())))


def _other_model(attempt: Attempt, model: str | None) -> Remedy | None:
    """Keep the job and change the model; None without another model."""
    if model is None or model == attempt.model:
        return None
    return Remedy(name="model", job=attempt.job, model=model)


def _changed_job(attempt: Attempt, name: str) -> Remedy | None:
    """Keep the model and change the job by the remedy `name`; None where the remedy does not suit the job."""
    job = _CHANGES[name](attempt)
    return None if job is None else Remedy(name=name, job=job, model=attempt.model)


def _dilated(attempt: Attempt) -> Job | None:
    """Grow the masks further."""
    job = attempt.job
    if not job.has_mask_source:
        return None
    now = asdict(job.mask_dilation)
    wider = {name: None if value is None else max(value * _WIDER, 1.0) for name, value in now.items()}
    return replace(job, dilate=Dilation(**wider))


def _shaped(shape: MaskShape) -> Callable[[Attempt], Job | None]:
    def change(attempt: Attempt) -> Job | None:
        job = attempt.job
        if not job.has_mask_source or MASK_SHAPES.index(job.mask_shape) >= MASK_SHAPES.index(shape):
            return None
        return replace(job, mask_shape=shape)

    return change


def _reseeded(attempt: Attempt) -> Job | None:
    """Take another seed."""
    return replace(attempt.job, seed=(attempt.job.seed or 0) + _OTHER_SEED) if attempt.windows else None


def _generated(attempt: Attempt) -> Job | None:
    """Generate the whole hole: recovered pixels of other frames may be wrong."""
    if attempt.job.task != "removal" or attempt.job.background == "off":
        return None
    return replace(attempt.job, background="off")


def _with_lora(attempt: Attempt) -> Job | None:
    """Switch to the preset removal-lora with its own sampling; the limits of windows stay."""
    job = attempt.job
    if job.task != "removal" or job.loras is not None or job.preset == "removal-lora" or not attempt.windows:
        return None
    limits = {name: getattr(job.sampling, name) for name in ("max_tokens", "max_frames", "overlap_frames")}
    return replace(job, preset="removal-lora", sampling=Sampling(**limits), negative_prompt=None, seed_scope=None)


def _cropped(attempt: Attempt) -> Job | None:
    """Halve the frames of a window: each frame gets more tokens, so that a crop is shrunk less."""
    frames = (attempt.max_frames // 2 - 1) // 4 * 4 + 1
    if frames < _LEAST_FRAMES or not attempt.windows:
        return None
    overlap = min(attempt.job.sampling.overlap_frames or frames // 5, frames // 5)
    return replace(attempt.job, sampling=replace(attempt.job.sampling, max_frames=frames, overlap_frames=overlap))


_CHANGES: dict[str, Callable[[Attempt], Job | None]] = {
    "dilate": _dilated,
    "hull": _shaped("hull"),
    "box": _shaped("box"),
    "seed": _reseeded,
    "background": _generated,
    "removal-lora": _with_lora,
    "crop": _cropped,
}
