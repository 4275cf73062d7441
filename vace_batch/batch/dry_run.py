"""A dry run: what a manifest would cost, from probing and planning alone."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
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
    """One job: `state` is todo, done, skipped or failed; the numbers are of what is still to do, `steps` by step.

    `looked`: masks and background were made for it, so that its windows are those of the run; else where only the run
    can tell they are at most that. `bound_gpu_s` is what would have been said of one that was looked at. `settings` is
    what its windows are made with, nothing left to a default.
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
    """The dry run of a manifest: arithmetic times `calibration`, at `prices`."""

    clips: tuple[ClipEstimate, ...]
    calibration: Calibration = field(default_factory=Calibration)
    prices: Prices = field(default_factory=Prices)

    @property
    def used(self) -> Used:
        return total(clip.used for clip in self.clips)

    @property
    def likely_gpu_s(self) -> float | None:
        """With the others needing as much of their bound as those that were looked at; None where that says nothing."""
        bounds = [(clip.used.gpu_s, clip.bound_gpu_s) for clip in self.clips if clip.bound_gpu_s is not None]
        bound = sum(most for _, most in bounds)
        if not bound:
            return None
        share = sum(seen for seen, _ in bounds) / bound
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
        told = {one.name: getattr(clip, one.name) for one in fields(clip) if one.name != "steps"}
        return {**told, **clip.used.as_dict(), "cost": self.prices.both(clip.used)}

    def _steps(self) -> dict[str, Used]:
        return {name: total(clip.steps.get(name, Used()) for clip in self.clips) for name in STEPS}

    def cost_lines(self) -> Iterator[str]:
        """What it takes and costs, and what the numbers are worth."""
        used = self.used
        at_most = "at most " if any(clip.state == "todo" and not clip.looked for clip in self.clips) else ""
        yield f"GPU       {at_most}{used.gpu_s:,.1f} s ({duration(used.gpu_s)})"
        if at_most and self.likely_gpu_s is not None:
            yield f"          about {self.likely_gpu_s:,.1f} s if all are like those that were looked at"
        by_step = ", ".join(f"{name} {part.cpu_s:,.1f}" for name, part in self._steps().items() if part.cpu_s)
        yield f"CPU       {used.cpu_s:,.1f} core-s ({duration(used.cpu_s)}): {by_step or 'none'}"
        yield f"storage   {used.num_bytes / 1e6:,.1f} MB in OUT"
        money = self.prices.both(used)
        if money is None:
            yield "cost      no prices are given (--price gpu_hour=..., gpu_hour_spot, cpu_hour, gb_month)"
        else:
            yield "cost      " + ", ".join(
                f"{self.prices.say(sum_)} {market.replace('_', ' ')}" for market, sum_ in money.items()
            )
        yield f"rates     {self.calibration.machine}, {self.calibration.measured_at}"

    def settings_lines(self) -> Iterator[str]:
        """One line for each set of values that jobs are made with: preset, jobs, then every value."""
        counts = Counter(json.dumps(clip.settings, ensure_ascii=False) for clip in self.clips if clip.settings)
        for text, count in counts.items():
            settings = json.loads(text)
            sampling = settings.pop("sampling")
            values = {
                name: value for name, value in {**settings, **sampling}.items() if name not in ("preset", "loras")
            }
            loras = [f"{lora['uri']}@{lora['revision'][:12]}={lora['weight']:g}" for lora in sampling["loras"]]
            said = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
            warning = ""
            if settings["preset"] in LORA_PRESETS and not loras:
                warning = " (no LoRA is given: right only for weights that have one in them)"
            yield f"{settings['preset']}, {count} jobs: {said}, loras={'+'.join(loras) or 'none'}{warning}"

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(Counter(c.state for c in self.clips).items()))
        windows = sum(clip.windows for clip in self.clips)
        return f"{len(self.clips)} clips ({states}), {windows} windows, {self.used.gpu_s:.1f} GPU-s"


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
    done: set[str] = set()
    failed: set[str] = set()
    windows: set[str] = set()
    if out is not None:
        find_run(out)  # refuses the OUT of another version
        ledger = Ledger(out)
        done, failed = ledger.keys("done", "clip"), ledger.keys("quarantine", "clip")
        windows = ledger.keys("done", "window")
    open_works = [work for work in works if work.clip_key not in done | failed]
    looked = {work.clip_key for work in open_works[:: max(1, len(open_works) // look)][:look]} if look else set[str]()

    def one(work: ClipWork) -> ClipEstimate:
        if work.clip_key in done:
            return ClipEstimate(job_id=work.job.job_id, state="done", settings=work.settings)
        if work.clip_key in failed:
            reason = "failed before; `vace-batch retry` tries it again"
            return ClipEstimate(job_id=work.job.job_id, state="failed", reason=reason)
        is_looked = work.clip_key in looked
        models = mask_models(options) if is_looked else MaskModels()
        try:
            with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
                found = survey(work, models, Path(folder), look=is_looked)
                bound = survey(work, models, Path(folder), look=False) if is_looked else found
        except ClipError as error:
            return ClipEstimate(job_id=work.job.job_id, state="failed", reason=str(error))
        if not is_looked or not may_shrink(work.job):
            return _todo(work, found, windows)
        most = total(predict(work, bound).values()).gpu_s
        return replace(_todo(work, found, windows), looked=True, bound_gpu_s=most, reason=None)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return Estimate(
            clips=tuple(pool.map(one, works)),
            calibration=options.calibration,
            prices=options.prices,
        )


def _todo(work: ClipWork, plan: ClipPlan, made: set[str]) -> ClipEstimate:
    left = [each for each in plan.windows if work.window_key(each, plan.region_of(each)) not in made]
    references = len(work.job.reference_uris)
    return ClipEstimate(
        job_id=work.job.job_id,
        state="todo" if plan.windows or plan.masked_frames else "skipped",
        frames=plan.num_frames,
        masked_frames=plan.masked_frames,
        shots=len(plan.shots),
        windows=len(left),
        tokens=sum(token_count(w.window.num_frames, plan.region_of(w).size, references) for w in left),
        looked=not may_shrink(work.job),
        steps=predict(work, plan, left),
        reason="at most" if may_shrink(work.job) else None,
        settings=work.settings,
    )
