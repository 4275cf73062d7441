"""Keep a clip's masks beside its results, for people and other tools.

A corrected file goes back into the manifest as `mask_uri`.
"""

from __future__ import annotations

import posixpath

from vace_batch.ledger.ledger import Ledger
from vace_batch.masks.export_files import SUFFIXES, export_masks, inline_coco
from vace_batch.masks.store import MaskReader
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.storage.node_cache import open_cached
from vace_batch.video.probe import probe


def kept_name(work: ClipWork) -> str:
    """Return the name of a clip's exported masks, relative to OUT."""
    form = work.options.keep_masks
    assert form is not None, "the run keeps masks"
    return f"masks/{_stem(work)}{SUFFIXES[form]}"


def keep(work: ClipWork, plan: ClipPlan) -> None:
    """Export the masks of a finished clip, and add the file's name and inline COCO to the clip's record."""
    form = work.options.keep_masks
    if form is None or plan.masks is None:
        return
    ledger = Ledger(work.out)
    name = kept_name(work)
    draft = ledger.artifact_uri(work.clip_key, SUFFIXES[form])
    with work.source() as path, open_cached(ledger.absolute(plan.masks)) as file:
        rate = probe(path, work.options.media).average_rate
        reader = MaskReader(file)
        export_masks(reader, plan.num_frames, rate, form, ledger.absolute(name), draft)
        coco = inline_coco(reader, plan.num_frames, _stem(work))
    ledger.amend(work.clip_key, {"masks": name, "masks_coco": coco})


def _stem(work: ClipWork) -> str:
    return posixpath.splitext(work.output.removeprefix("videos/"))[0]
