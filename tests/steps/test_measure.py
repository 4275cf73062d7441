"""The step that measures: faults of the clip are recorded, faults of the machine are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.support.media_files import Media, make
from tests.support.records import check_records
from vace_batch.batch import workers
from vace_batch.batch.identity import works_of
from vace_batch.cluster.units import Call
from vace_batch.errors import is_out_of_memory
from vace_batch.ledger.ledger import Ledger, quality_key
from vace_batch.ledger.verdicts import verdict_of
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options, QualitySettings
from vace_batch.quality.meter import Meter
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.measure import measure
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch

TOO_MANY = 2**55


def no_memory_of_numpy() -> None:
    np.empty(TOO_MANY)


def no_memory_of_torch() -> None:
    torch.empty(TOO_MANY)


def no_memory_of_opencv() -> None:
    cv2.copyMakeBorder(np.zeros((1, 1), np.uint8), 0, 2**30, 0, 2**30, cv2.BORDER_CONSTANT)


ALLOCATIONS = (no_memory_of_numpy, no_memory_of_torch, no_memory_of_opencv)


@pytest.fixture
def stitched(tmp_path: Path) -> tuple[ClipWork, ClipPlan]:
    path = tmp_path / "clip.mp4"
    make(path, Media(width=96, height=64, num_frames=6))
    job = Job(job_id="a", video_uri=str(path), task="removal")
    job = replace(job, boxes=(BoxKey(x=30, y=20, width=16, height=16),))
    [work] = works_of([job], str(tmp_path / "out"), Options(), str(tmp_path))
    plan = prepare(work, MaskModels())
    stitch(work, plan)
    return work, plan


@pytest.mark.parametrize("allocate", ALLOCATIONS)
def test_a_machine_without_memory_leaves_the_clip_to_be_measured_again(
    stitched: tuple[ClipWork, ClipPlan], monkeypatch: pytest.MonkeyPatch, allocate: object
) -> None:
    work, plan = stitched
    with monkeypatch.context() as patch:
        patch.setattr(Meter, "metrics", lambda _: allocate())  # type: ignore[operator]
        with pytest.raises(Exception) as raised:
            measure(work, plan, MaskModels())
    assert is_out_of_memory(raised.value)
    assert Ledger(work.out).done(quality_key(work.clip_key)) is None
    record = measure(work, plan, MaskModels())
    assert record["metrics"] and record.get("unmeasured") is None


def test_another_error_of_a_check_is_recorded(
    stitched: tuple[ClipWork, ClipPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, plan = stitched

    def fail(_: Meter) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Meter, "metrics", fail)
    assert measure(work, plan, MaskModels())["unmeasured"] == "RuntimeError: a bug"
    assert not is_out_of_memory(RuntimeError("a bug"))


def test_a_finished_clip_is_measured_once_and_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    make(path, Media(width=96, height=64, num_frames=6))
    job = Job(job_id="a", video_uri=str(path), task="removal", boxes=(BoxKey(x=30, y=20, width=16, height=16),))
    works = works_of([job, replace(job, job_id="b")], str(tmp_path / "out"), Options(), str(tmp_path))
    for work in works:
        plan = prepare(work, MaskModels())
        assert plan.windows == ()  # a smooth ramp is bridged
        stitch(work, plan)
    [outcome] = workers.measure(MaskModels(), [Call(unit_id="measure/a", payload=(works[0], plan))])
    record: Any = outcome.meta
    assert record["checks"] and record["metrics"]["outside"] < 3 and record["broken"] == []
    assert measure(works[0], plan, MaskModels())["commit"] == record["commit"]

    Path(works[1].out, works[1].output).write_bytes(b"no video")
    record = measure(works[1], plan, MaskModels())
    verdict = verdict_of(record, QualitySettings())
    assert verdict.verdict == "fail" and "the file is broken: the output cannot be read" in verdict.reasons[0]
    assert Ledger(works[1].out).done(works[1].clip_key) is not None
    assert check_records(works[0].out) == {"PrepRecord", "ClipRecord", "QualityRecord"}
