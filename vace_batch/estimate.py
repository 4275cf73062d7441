"""A dry run: what a manifest would cost, from probing and planning alone."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vace_batch import profiles
from vace_batch.batch import works_of
from vace_batch.config import Options
from vace_batch.errors import ClipError
from vace_batch.geometry import token_count
from vace_batch.manifest import Manifest
from vace_batch.manifest_uri import folder_of
from vace_batch.masks.source import MaskModels, needs_pixels
from vace_batch.progress import duration
from vace_batch.results import Ledger
from vace_batch.steps import ClipPlan, ClipWork, survey


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEstimate:
    """One job: `state` is todo, done, skipped or failed; the numbers are of what is still to do.

    `settings` is what its windows are made with, nothing left to a default.
    """

    job_id: str
    state: str
    frames: int = 0
    masked_frames: int = 0
    shots: int = 0
    windows: int = 0
    tokens: int = 0
    gpu_s: float = 0.0
    reason: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The dry run of a manifest; `gpu_s` is arithmetic at `tflops` sustained, not a measurement."""

    clips: tuple[ClipEstimate, ...]
    tflops: float

    @property
    def gpu_s(self) -> float:
        return sum(clip.gpu_s for clip in self.clips)

    @property
    def failed(self) -> int:
        return sum(clip.state == "failed" for clip in self.clips)

    def as_dict(self) -> dict[str, Any]:
        totals = {name: sum(getattr(clip, name) for clip in self.clips) for name in ("windows", "tokens")}
        return {"gpu_s": self.gpu_s, "tflops": self.tflops, **totals, "clips": [asdict(clip) for clip in self.clips]}

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
            if settings["preset"] in profiles.LORA_PRESETS and not loras:
                warning = " (no LoRA is given: right only for weights that have one in them)"
            yield f"{settings['preset']}, {count} jobs: {said}, loras={'+'.join(loras) or 'none'}{warning}"

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(Counter(c.state for c in self.clips).items()))
        windows = sum(clip.windows for clip in self.clips)
        gpu = f"{self.gpu_s:.1f} GPU-s ({duration(self.gpu_s)}) at {self.tflops:g} TFLOP/s sustained"
        return f"{len(self.clips)} clips ({states}), {windows} windows, {gpu}"


def _short(value: object) -> str:
    text = str(value)
    return repr(text[:23] + "…" if len(text) > 24 else text) if isinstance(value, str) else text


def estimate(manifest: Manifest, options: Options, *, out: str | None, tflops: float) -> Estimate:
    """Plan every job without running or storing anything; what `out` holds already is left out.

    Raises:
        UsageError: a model is not known or not there.
    """
    works = works_of(manifest.jobs, out or "", options, folder_of(manifest.uri))
    done: set[str] = set()
    failed: set[str] = set()
    windows: set[str] = set()
    if out is not None:
        ledger = Ledger(out)
        done, failed = ledger.keys("done", "clip"), ledger.keys("quarantine", "clip")
        windows = ledger.keys("done", "window")

    def one(work: ClipWork) -> ClipEstimate:
        if work.clip_key in done:
            return ClipEstimate(job_id=work.job.job_id, state="done", settings=work.settings)
        if work.clip_key in failed:
            reason = "failed before; `vace-batch retry` tries it again"
            return ClipEstimate(job_id=work.job.job_id, state="failed", reason=reason)
        try:
            with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
                found = survey(work, MaskModels(), Path(folder), look=False)
        except ClipError as error:
            return ClipEstimate(job_id=work.job.job_id, state="failed", reason=f"{error.code}: {error.reason}")
        return _todo(work, found, windows, tflops)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return Estimate(clips=tuple(pool.map(one, works)), tflops=tflops)


def _todo(work: ClipWork, plan: ClipPlan, made: set[str], tflops: float) -> ClipEstimate:
    profile = profiles.profile(work.model)
    references = len(work.job.reference_uris)
    negative = work.job.negative_prompt
    guided = work.job.prompt != (profiles.default_negative_prompt(work.job.task) if negative is None else negative)
    windows = tokens = 0
    seconds = 0.0
    for planned in plan.windows:
        region, frames = plan.regions[planned.window.region], planned.window.num_frames
        if work.window_key(planned, region) in made:
            continue
        windows += 1
        tokens += token_count(frames, region.size, references)
        seconds += profile.window_seconds(
            frames, region.size, work.sampling, tflops=tflops, num_references=references, guided=guided
        )
    return ClipEstimate(
        job_id=work.job.job_id,
        state="todo" if plan.windows else "skipped",
        frames=plan.num_frames,
        masked_frames=plan.masked_frames,
        shots=len(plan.shots),
        windows=windows,
        tokens=tokens,
        gpu_s=round(seconds, 6),
        reason="at most: where the objects are is found in the run" if needs_pixels(work.job) else None,
        settings=work.settings,
    )
