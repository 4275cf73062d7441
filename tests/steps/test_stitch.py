"""Finished clips: of outputs larger or longer than their source, and of clips without anything to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.prepared_clips import FRAMES, Prepare
from vace_batch.errors import ClusterError
from vace_batch.geometry import Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Expand, Extend, Protect
from vace_batch.steps import build as build_step
from vace_batch.steps.stitch import stitch
from vace_batch.storage import files as storage
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import encode_lossless

WHOLE = BoxKey(x=0, y=0, width=96, height=64)


@pytest.mark.parametrize(
    ("fields", "size", "frames"),
    [
        ({"task": "outpainting", "expand": Expand(left=0.25)}, Size(128, 64), FRAMES),
        ({"task": "extension", "extend": Extend(mode="last", seconds=0.24)}, Size(96, 64), FRAMES + 6),
        ({"task": "composition", "compose": "expand", "extend": Extend(seconds=0.2)}, Size(160, 96), FRAMES + 5),
    ],
)
def test_what_grows_is_stitched_whole(prepared: Prepare, fields: dict[str, object], size: Size, frames: int) -> None:
    work, plan = prepared(**fields)
    ledger = Ledger(work.out)
    for planned in plan.windows:
        vcu = build_step.build(work, plan, planned)
        uri = ledger.artifact_uri(vcu.window_id, ".mkv")
        red = np.full_like(vcu.frames_THWC, (255, 0, 0))
        storage.publish(uri, encode_lossless(red))
        ledger.commit(vcu.window_id, {"artifact": ledger.relative(uri), "seconds": 0.0, "seed": vcu.seed})
    assert stitch(work, plan)["status"] == "done"
    source = [frame.rgb() for frame in read_frames(work.job.video_uri)]
    output = [frame.rgb() for frame in read_frames(ledger.absolute(work.output))]
    assert len(output) == frames and {frame.shape for frame in output} == {(size.height, size.width, 3)}
    for index, picture in enumerate(output):
        kept = picture[plan.canvas.source.slices]
        if index in plan.span:
            assert np.abs(kept[8:-8, 8:-8].astype(int) - source[index - plan.canvas.before][8:-8, 8:-8]).mean() < 4
        else:
            assert (kept[..., 0] > 180).all() and (kept[..., 1] < 80).all()


def test_a_clip_without_masks_is_a_copy_of_its_source(prepared: Prepare) -> None:
    work, plan = prepared("removal", protect=Protect(boxes=(WHOLE,)), boxes=(WHOLE,))
    assert plan.masks is None and plan.windows == ()
    record = stitch(work, plan)
    assert record["status"] == "skipped" and record["window_rows"] == []
    assert record["reason"] == "all masked pixels are protected, in 24 frames; the output is a copy"
    assert Path(work.out, work.output).read_bytes() == Path(work.job.video_uri).read_bytes()
    assert stitch(work, plan, attempt=2) == record, "once is enough"


def test_a_window_that_is_not_generated_leaves_no_output(prepared: Prepare) -> None:
    work, plan = prepared("inpainting", boxes=(BoxKey(x=16, y=16, width=24, height=24),))
    with pytest.raises(ClusterError, match="frames 0..23 of j have no record"):
        stitch(work, plan)
    assert not Path(work.out, work.output).exists() and Ledger(work.out).clip(work.clip_key) is None
