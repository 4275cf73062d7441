"""The step that plans a clip: once in the ledger, and files of one attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.prepared_clips import Prepare
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey
from vace_batch.masks.models import MaskModels
from vace_batch.steps import prepare as module
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.prepare import prepare, survey

BOX = BoxKey(x=16, y=16, width=24, height=24)


def files_of(work: ClipWork) -> set[Path]:
    return {path for path in Path(work.out, "artifacts").rglob("*") if path.is_file()}


def test_a_plan_is_made_once_and_its_shared_file_published_once(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, plan = prepared("inpainting", boxes=(BOX,))
    assert plan.masks == plan.holes is not None and len(files_of(work)) == 1
    monkeypatch.setattr(module, "survey", None)
    assert prepare(work, MaskModels()) == plan


def test_of_two_attempts_the_first_counts_and_the_files_of_the_other_go(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = prepared("inpainting", boxes=(BOX,))
    work, _ = prepared("inpainting", boxes=(BOX,))
    record = Ledger(work.out).done(work.prep_key)
    published = files_of(work)
    assert record is not None
    Path(next(Path(work.out, "ledger").rglob(f"{work.prep_key}.json"))).unlink()

    def overtaken(*arguments: object) -> ClipPlan:
        plan = survey(*arguments)  # type: ignore[arg-type]
        Ledger(work.out).commit(work.prep_key, {"plan": record["plan"]})
        return plan

    monkeypatch.setattr(module, "survey", overtaken)
    assert prepare(work, MaskModels()) == first and files_of(work) == published


def test_without_models_whole_frames_are_masked_and_nothing_is_recovered(prepared: Prepare, tmp_path: Path) -> None:
    work, _ = prepared("removal", boxes=(BOX,), background="auto")
    looked, bound = tmp_path / "looked", tmp_path / "bound"
    looked.mkdir()
    bound.mkdir()
    seen = survey(work, MaskModels(), looked)
    assert seen.recovered_share > 0 and seen.recovered == str(looked / "recovered.parquet")
    plan = survey(work, MaskModels(), bound, look=False)
    assert plan.recovered is None and plan.recovered_share == 0 and plan.masks == plan.holes
    assert plan.masked_frames == seen.masked_frames
