"""Estimate the cost of a manifest by probing and planning its clips, without running them."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vace_batch.batch.batch import ManifestSource, open_manifest
from vace_batch.batch.identity import mask_models, works_of
from vace_batch.batch.progress import duration
from vace_batch.costs import Calibration, Prices, Used, total
from vace_batch.errors import ClipError
from vace_batch.geometry import token_count
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.outputs import Outputs, find_problems
from vace_batch.ledger.run_plan import find_run
from vace_batch.manifest.presets import LORA_PRESETS
from vace_batch.manifest.uris import folder_of
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.prediction import STEPS, may_shrink, predict
from vace_batch.steps.prepare import survey


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEstimate:
    """Estimate of one job's remaining work; `state` is todo, done, skipped or failed, `steps` the cost of each step.

    `looked`: the windows are those of the run, because masks and background were computed or are not needed; otherwise
    `windows` is an upper bound. `bound_gpu_s`: upper bound that a computed clip would have had without computing.
    `settings`: every value that the windows are made with, defaults filled in.
    """

    job_id: str
    state: str
    frames: int = 0
    masked_frames: int = 0
    shots: int = 0
    windows: int = 0
    tokens: int = 0
    looked: bool = False
    bound_gpu_s: float | None = None
    steps: Mapping[str, Used] = field(default_factory=dict)
    reason: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def used(self) -> Used:
        return total(self.steps.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimate of a manifest: predicted work by the rates of `calibration`, at `prices`."""

    clips: tuple[ClipEstimate, ...]
    calibration: Calibration = field(default_factory=Calibration)
    prices: Prices = field(default_factory=Prices)

    @property
    def used(self) -> Used:
        return total(clip.used for clip in self.clips)

    @property
    def likely_gpu_s(self) -> float | None:
        """GPU seconds if every clip needs the share of its bound that computed clips need; None without a bound."""
        computed = [(clip.used.gpu_s, clip.bound_gpu_s) for clip in self.clips if clip.bound_gpu_s is not None]
        bound = sum(bound for _, bound in computed)
        if not bound:
            return None
        share = sum(gpu_s for gpu_s, _ in computed) / bound
        return sum(clip.used.gpu_s * (1.0 if clip.looked else share) for clip in self.clips)

    @property
    def failed(self) -> int:
        return sum(clip.state == "failed" for clip in self.clips)

    def as_dict(self) -> dict[str, Any]:
        totals = {name: sum(getattr(clip, name) for clip in self.clips) for name in ("windows", "tokens")}
        return {
            **self.used.as_dict(),
            "likely_gpu_s": self.likely_gpu_s,
            "cost": self.prices.both(self.used),
            "currency": self.prices.currency,
            "steps": {name: used.as_dict() for name, used in self._steps().items()},
            **totals,
            "calibration": self.calibration.model_dump(),
            "prices": self.prices.model_dump(),
            "clips": [self._clip(clip) for clip in self.clips],
        }

    def _clip(self, clip: ClipEstimate) -> dict[str, Any]:
        values = {each.name: getattr(clip, each.name) for each in fields(clip) if each.name != "steps"}
        return {**values, **clip.used.as_dict(), "cost": self.prices.both(clip.used)}

    def _steps(self) -> dict[str, Used]:
        return {name: total(clip.steps.get(name, Used()) for clip in self.clips) for name in STEPS}

    def cost_lines(self) -> Iterator[str]:
        """Lines of text: GPU and CPU time, storage, cost, and the rates they were predicted with."""
        used = self.used
        at_most = "at most " if any(clip.state == "todo" and not clip.looked for clip in self.clips) else ""
        yield f"GPU       {at_most}{used.gpu_s:,.1f} s ({duration(used.gpu_s)})"
        if at_most and self.likely_gpu_s is not None:
            yield f"          about {self.likely_gpu_s:,.1f} s if all clips are like the computed ones"
        by_step = ", ".join(f"{name} {part.cpu_s:,.1f}" for name, part in self._steps().items() if part.cpu_s)
        yield f"CPU       {used.cpu_s:,.1f} core-s ({duration(used.cpu_s)}): {by_step or 'none'}"
        yield f"storage   {used.num_bytes / 1e6:,.1f} MB in OUT"
        yield f"cost      {self._money(used)}"
        yield f"rates     {self.calibration.machine}, {self.calibration.measured_at}"

    def _money(self, used: Used) -> str:
        money = self.prices.both(used)
        if money is None:
            return "no prices are given (--price gpu_hour=..., gpu_hour_spot, cpu_hour, gb_month)"
        return ", ".join(f"{self.prices.say(cost)} {market.replace('_', ' ')}" for market, cost in money.items())

    def settings_lines(self) -> Iterator[str]:
        """Lines of text, one for each set of settings: preset, number of jobs, every value."""
        counts = Counter(json.dumps(clip.settings, ensure_ascii=False) for clip in self.clips if clip.settings)
        for text, count in counts.items():
            yield _settings_line(json.loads(text), count)

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(Counter(c.state for c in self.clips).items()))
        windows = sum(clip.windows for clip in self.clips)
        return f"{len(self.clips)} clips ({states}), {windows} windows, {self.used.gpu_s:.1f} GPU-s"


def _settings_line(settings: dict[str, Any], count: int) -> str:
    sampling = settings.pop("sampling")
    values = {name: value for name, value in {**settings, **sampling}.items() if name not in ("preset", "loras")}
    loras = [f"{lora['uri']}@{lora['revision'][:12]}={lora['weight']:g}" for lora in sampling["loras"]]
    shown = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
    warning = ""
    if settings["preset"] in LORA_PRESETS and not loras:
        warning = " (no LoRA given: correct only if the weights include one)"
    return f"{settings['preset']}, {count} jobs: {shown}, loras={'+'.join(loras) or 'none'}{warning}"


def _short(value: object) -> str:
    text = str(value)
    return repr(text[:23] + "…" if len(text) > 24 else text) if isinstance(value, str) else text


def plan(
    manifest: ManifestSource, options: Options | None = None, *, out: str | None = None, look: int = 0
) -> Estimate:
    """Estimate a run without running or storing anything; jobs that are finished in `out` are left out.

    `look`: number of jobs whose masks and background are really computed, for a tighter estimate.

    Raises:
        ManifestError: with every fault of every row.
        UsageError: a model is unknown or missing.
    """
    options = options or Options()
    manifest = open_manifest(manifest)
    works = works_of(manifest.jobs, out or "", options, folder_of(manifest.uri))
    dry_run = _DryRun.of(works, options, out, look)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        clips = tuple(pool.map(dry_run.estimate, works))
    return Estimate(clips=clips, calibration=options.calibration, prices=options.prices)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DryRun:
    """Keys of finished clips and windows in OUT, keys of the clips to survey fully, and the models for these."""

    done: Collection[str] = frozenset()
    failed: Collection[str] = frozenset()
    windows: Collection[str] = frozenset()
    looked: Collection[str] = frozenset()
    models: MaskModels

    @classmethod
    def of(cls, works: Sequence[ClipWork], options: Options, out: str | None, look: int) -> _DryRun:
        """Read the ledger of `out` and choose `look` unfinished clips, evenly spaced in the manifest."""
        models = mask_models(options)
        if out is None:
            return cls(models=models, looked=_spread([work.clip_key for work in works], look))
        find_run(out)  # refuses an OUT of another version
        ledger = Ledger(out)
        done = ledger.keys("done", "clip") - find_problems(Outputs(out), works).keys()
        failed = ledger.keys("quarantine", "clip")
        unfinished = [work.clip_key for work in works if work.clip_key not in done | failed]
        windows = ledger.keys("done", "window")
        return cls(models=models, done=done, failed=failed, windows=windows, looked=_spread(unfinished, look))

    def estimate(self, work: ClipWork) -> ClipEstimate:
        """Estimate one clip; a clip that cannot be planned is failed, with the reason."""
        job_id = work.job.job_id
        if work.clip_key in self.done:
            return ClipEstimate(job_id=job_id, state="done", settings=work.settings)
        if work.clip_key in self.failed:
            reason = "failed before; `vace-batch retry` runs it again"
            return ClipEstimate(job_id=job_id, state="failed", reason=reason)
        try:
            return self._unfinished(work)
        except ClipError as error:
            return ClipEstimate(job_id=job_id, state="failed", reason=str(error))

    def _unfinished(self, work: ClipWork) -> ClipEstimate:
        with tempfile.TemporaryDirectory(prefix="vace-batch-") as name:
            folder = Path(name)
            if work.clip_key not in self.looked:
                return _todo(work, survey(work, MaskModels(), folder, look=False), self.windows)
            estimate = _todo(work, survey(work, self.models, folder), self.windows)
            if not may_shrink(work.job):
                return estimate
            bound = survey(work, self.models, folder, look=False)
        bound_gpu_s = total(predict(work, bound).values()).gpu_s
        return replace(estimate, looked=True, bound_gpu_s=bound_gpu_s, reason=None)


def _spread(keys: Sequence[str], count: int) -> frozenset[str]:
    """Choose `count` of `keys`, evenly spaced."""
    return frozenset(keys[:: max(1, len(keys) // count)][:count]) if count else frozenset()


def _todo(work: ClipWork, plan: ClipPlan, made: Collection[str]) -> ClipEstimate:
    """Estimate of an unfinished clip from its plan; windows in `made` are not counted."""
    nothing = not plan.windows and not plan.masked_frames
    empty_state = "failed" if work.expects_found else "skipped"
    windows = [each for each in plan.windows if work.window_key(each, plan.region_of(each)) not in made]
    references = len(work.job.reference_uris)
    return ClipEstimate(
        job_id=work.job.job_id,
        state=empty_state if nothing else "todo",
        frames=plan.num_frames,
        masked_frames=plan.masked_frames,
        shots=len(plan.shots),
        windows=len(windows),
        tokens=sum(token_count(w.window.num_frames, plan.region_of(w).size, references) for w in windows),
        looked=not may_shrink(work.job),
        steps=predict(work, plan, windows),
        reason="at most" if may_shrink(work.job) else plan.nothing,
        settings=work.settings,
    )
