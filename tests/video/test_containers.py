"""The chosen container: refused before the GPU works if it cannot hold a track, else it holds the whole clip."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.media_files import Media, Sound, make
from vace_batch.batch.identity import works_of
from vace_batch.errors import ClipError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.results import write_results
from vace_batch.ledger.run_plan import PlannedJob
from vace_batch.ledger.summary import summarise
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.storage import files as storage
from vace_batch.video.probe import probe
from vace_batch.video.reader import read_frames
from vace_batch.video.shots import scan
from vace_batch.video.writer import encode_lossless

BOX = BoxKey(x=8, y=8, width=16, height=16)
UNEVEN = [0, 600, 1000, 3000, 3100, 3200, 4100, 5000, 5100, 6000, 9000, 9900]
PREVIEW = Options(crf=30)


def work_of(tmp_path: Path, source: str, output: str, **fields: Any) -> ClipWork:
    job = replace(Job(job_id="clip", video_uri=source, task="removal", boxes=(BOX,), output_uri=output), **fields)
    [work] = works_of([job], str(tmp_path / "out"), PREVIEW, str(tmp_path))
    return work


@pytest.mark.parametrize(
    ("media", "output"),
    [
        (Media(sounds=(Sound(codec="aac"),)), "out.webm"),
        (Media(sounds=(Sound(codec="pcm_s16le"),), pts=UNEVEN, time_base=Fraction(1, 30000)), "out.avi"),
    ],
)
def test_what_a_container_cannot_hold_is_said_before_the_work(tmp_path: Path, media: Media, output: str) -> None:
    source = make(tmp_path / "a.mov", media)
    prepare(work_of(tmp_path, source, "out.mov"), MaskModels())  # what one container holds says nothing of another
    with pytest.raises(ClipError) as caught:
        prepare(work_of(tmp_path, source, output), MaskModels())
    assert caught.value.code == "cannot_write"


@pytest.mark.parametrize(("output", "copied"), [("out.mov", None), ("out.mkv", 12), ("out.ts", 0)])
def test_nothing_to_change_still_goes_into_the_chosen_container(
    tmp_path: Path, output: str, copied: int | None
) -> None:
    media = Media(options={"preset": "medium"}, sounds=(Sound(codec="aac"),))
    source = make(tmp_path / "a.mov", media)
    (tmp_path / "masks").mkdir()
    for index in range(12):
        Image.new("L", (64, 48)).save(tmp_path / "masks" / f"{index:05}.png")
    work = work_of(tmp_path, source, output, boxes=(), mask_uri=str(tmp_path / "masks"))
    record = stitch(work, prepare(work, MaskModels()))
    target = str(tmp_path / "out" / "videos" / output)
    assert record["status"] == "skipped" and record.get("copied_frames") == copied
    assert probe(target).suffix == Path(output).suffix and probe(target).num_audio == 1
    assert (Path(target).read_bytes() == Path(source).read_bytes()) == (copied is None)
    if copied:
        for one, other in zip(read_frames(source), read_frames(target), strict=True):
            assert (one.rgb() == other.rgb()).all()
    assert scan(target).num_frames == 12


def test_copied_frames_are_recorded(tmp_path: Path) -> None:
    media = Media(num_frames=24, options={"preset": "medium", "g": "8", "x264-params": "scenecut=0"})
    source = make(tmp_path / "a.mp4", media)
    work = work_of(tmp_path, source, "out.mp4", end_s=0.1, background="none")
    plan = prepare(work, MaskModels())
    for planned in plan.windows:  # gray in place of what a model would make
        region = plan.region_of(planned)
        key, size = work.window_key(planned, region), region.size
        frames = np.full((planned.window.num_frames, size.height, size.width, 3), 127, np.uint8)
        name = f"artifacts/{key}.mkv"
        storage.publish(str(tmp_path / "out" / name), encode_lossless(frames))
        Ledger(work.out).commit(key, {"artifact": name, "seconds": 0.0, "seed": 1})
    assert stitch(work, plan)["copied_frames"] == 16
    write_results(summarise(work.out, planned_jobs(work)))
    table = pq.read_table(tmp_path / "out" / "results")
    assert table["copied_frames"].to_pylist() == [16]


def planned_jobs(work: ClipWork) -> list[PlannedJob]:
    keys = {"clip_key": work.clip_key, "prep_key": work.prep_key}
    return [PlannedJob(job_id="clip", output=work.output, row="{}", **keys)]
