"""Measure a finished clip, and record its metrics and verdict; the clip stays done in any case.

The metrics have a key of their own in the ledger. The verdict follows from them and the run's thresholds
(ledger/verdicts.py), so other thresholds need no new measurement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

from vace_batch.errors import ClipError, ClusterError, is_out_of_memory
from vace_batch.geometry import TOKEN_PX
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.schema import QualityRecord
from vace_batch.ledger.verdicts import with_verdict
from vace_batch.manifest.job import Job
from vace_batch.masks.models import MaskModels
from vace_batch.masks.refine import at_least_token
from vace_batch.masks.store import FrameMask, make_mask
from vace_batch.quality.compare import Comparison, ReadMasks
from vace_batch.quality.container import Contract, container_faults
from vace_batch.quality.leftovers import detect_leftovers
from vace_batch.quality.meter import Meter
from vace_batch.quality.missed import count_missed
from vace_batch.quality.untouched import measure_untouched
from vace_batch.quality.verdict import checks_of
from vace_batch.redact import redact
from vace_batch.steps.clip import MADE_AGAIN, ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlanFiles
from vace_batch.steps.open_clip import frame_range_of
from vace_batch.steps.select_best import own_video
from vace_batch.storage.fingerprints import fingerprint
from vace_batch.storage.node_cache import cached_path
from vace_batch.video.probe import VideoInfo, probe
from vace_batch.video.reader import packet_times


def measure(work: ClipWork, plan: ClipPlan, models: MaskModels) -> QualityRecord:
    """Measure the finished clip of `work` and record the result; a fault of the clip is recorded as well.

    Raises:
        OSError, ClusterError, or an error of `is_out_of_memory`: the storage or the machine failed, which says nothing
            about the clip. The step can be repeated.
    """
    ledger = Ledger(work.out)
    record = ledger.quality(work.clip_key)
    if record is not None:
        return record
    started = time.monotonic()
    try:
        body = _measured(work, plan, models, ledger)
    except (OSError, ClusterError):
        raise
    except Exception as error:  # a check that fails says nothing against the clip
        if is_out_of_memory(error):
            raise
        body = unmeasured(work, f"{type(error).__name__}: {error}")
    body["seconds"] = round(time.monotonic() - started, 3)
    ledger.commit(quality_key(work.clip_key), body)
    return ledger.quality(work.clip_key) or body


def unmeasured(work: ClipWork, reason: str, *, again: bool = False) -> QualityRecord:
    """Make the record of a clip that could not be measured; with `again` the next run tries once more."""
    body: QualityRecord = {**_blank(work), "unmeasured": redact(reason)}
    if again:
        body["measure_again"] = True
    return with_verdict(body, work.options.quality)


def _blank(work: ClipWork) -> QualityRecord:
    """Make the record of a finished clip before anything is measured."""
    clip = Ledger(work.out).clip(work.clip_key)
    rows = [] if clip is None else clip.get("window_rows", [])
    return {
        "clip_key": work.clip_key,
        "checks": list(checks_of(work.job)),
        "metrics": {},
        "broken": [],
        "windows": len(rows),
        "gpu_s": round(sum(row["seconds"] for row in rows), 3),
    }


def _measured(work: ClipWork, plan: ClipPlan, models: MaskModels, ledger: Ledger) -> QualityRecord:
    with ExitStack() as stack:
        uri = ledger.absolute(own_video(work, ledger))
        output = stack.enter_context(cached_path(uri, fingerprint(uri)))
        source = stack.enter_context(work.source())
        info = probe(source, work.options.media)
        broken = _broken(info, output, _contract(work, plan, info))
        metrics: dict[str, float] = {}
        if plan.masks is not None and not broken:
            files = stack.enter_context(plan.open_files(ledger))
            masks = files.mask_reader("masks")
            assert masks is not None, "the plan names it"
            comparison = _comparison(work, plan, (source, output), files)
            masked = sorted(masks.boxes())
            meter = Meter(_cuts(plan), _joins(plan), revealed=work.job.task == "removal")
            comparison.compare(masked, meter)
            metrics = meter.metrics()
            if work.job.task == "removal":
                asked = _asked(work.job, comparison, info)
                metrics |= count_missed(comparison, masked, asked, tuple(_cuts(plan)))
            if work.options.quality.untouched != "off":
                metrics |= measure_untouched(comparison, vmaf=work.options.quality.untouched == "vmaf")
            if work.job.targets:
                metrics |= detect_leftovers(work.job, comparison, masked, models)
    body: QualityRecord = {**_blank(work), "metrics": metrics, "broken": broken, "doubts": list(plan.doubts)}
    return with_verdict(body, work.options.quality)


def _broken(info: VideoInfo, output: str, contract: Contract) -> list[str]:
    """List the faults of the output file; a file that cannot be read is one."""
    try:
        made = probe(output)
    except ClipError as error:
        return [f"the output cannot be read ({error.reason})"]
    return container_faults(info, made, contract)


def _contract(work: ClipWork, plan: ClipPlan, info: VideoInfo) -> Contract:
    clip = Ledger(work.out).clip(work.clip_key)
    notes = [] if clip is None else clip.get("notes", [])
    return Contract(
        num_frames=plan.num_frames,
        size=plan.canvas.size,
        before=plan.canvas.before,
        lead_s=plan.canvas.lead_s(info),
        notes=tuple(note for note in notes if not note.startswith(MADE_AGAIN)),  # which has the file's name
    )


def _comparison(work: ClipWork, plan: ClipPlan, paths: tuple[str, str], files: PlanFiles) -> Comparison:
    return Comparison(
        source=paths[0],
        output=paths[1],
        source_pts=packet_times(paths[0]),
        output_pts=packet_times(paths[1]),
        canvas=plan.canvas,
        num_frames=plan.num_frames,
        masks=partial(files.masks, "masks"),
        touched=_touched(plan, files),
        feather_px=work.options.feather_px,
        generated=None if plan.recovered is None else partial(files.masks, "holes"),
    )


def _touched(plan: ClipPlan, files: PlanFiles) -> list[ReadMasks]:
    """Return readers of the pixels that may change beyond the masks: recovered shadows, holes grown to a token."""
    token_px = max((region.token_px for region in plan.regions), default=TOKEN_PX)

    def recovered(start: int, stop: int) -> dict[int, FrameMask]:
        patches = files.patches(start, stop).items()
        masks = {index: make_mask(index, patch.known, (patch.box.x, patch.box.y)) for index, patch in patches}
        return {index: mask for index, mask in masks.items() if mask is not None}

    def grown(start: int, stop: int) -> dict[int, FrameMask]:
        holes = files.masks("holes", start, stop).items()
        return {index: at_least_token(mask, plan.size, token_px) for index, mask in holes}

    return [recovered, grown]


def _asked(job: Job, comparison: Comparison, info: VideoInfo) -> range:
    """Return the frames that the job asks for; all of them where the source has no times."""
    times = [time for time in comparison.source_pts if time is not None]
    if len(times) < len(comparison.source_pts) or not times:
        return range(comparison.num_frames)
    before = comparison.canvas.before
    start, stop = frame_range_of(job, times, info.time_base)
    return range(before + start, before + stop)


def _cuts(plan: ClipPlan) -> Iterator[int]:
    return (shot.start for shot in plan.shots)


def _joins(plan: ClipPlan) -> Iterator[range]:
    """Yield the frames over which one window of a region gives way to the next."""
    windows = sorted((planned.window for planned in plan.windows), key=lambda window: (window.region, window.start))
    for earlier, later in pairwise(windows):
        if earlier.region == later.region and later.start <= earlier.stop:
            yield range(later.start, earlier.stop + 1)
