"""The best of a clip's attempts becomes its output; done again, it ends the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from vace_batch.batch.identity import works_of
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.options import Options
from vace_batch.quality.remedies import FIRST
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.select_best import attempt_name, attempts_key, select_best


@pytest.fixture
def work(tmp_path: Path) -> ClipWork:
    path = make(tmp_path / "clip.mp4", Media(num_frames=4))
    job = Job(job_id="a", video_uri=path, task="removal", boxes=(BoxKey(x=0, y=0, width=9, height=9),))
    [work] = works_of([job], str(tmp_path / "out"), Options(), str(tmp_path))
    for name, content in ((work.output, b"first"), (attempt_name(work, "seed"), b"second")):
        Path(work.out, name).parent.mkdir(parents=True, exist_ok=True)
        Path(work.out, name).write_bytes(content)
    return work


def attempts(work: ClipWork) -> list[dict[str, object]]:
    return [{"output": work.output, "gpu_s": 5.0}, {"output": attempt_name(work, "seed"), "gpu_s": 2.5}]


@pytest.mark.parametrize(("best", "content"), [(0, b"first"), (1, b"second")])
def test_the_chosen_attempt_is_the_output_however_often_it_is_chosen(work: ClipWork, best: int, content: bytes) -> None:
    for _ in range(2):
        select_best(work, attempts(work), best)  # type: ignore[arg-type]
        assert Path(work.out, work.output).read_bytes() == content
    first = Path(work.out, attempt_name(work, FIRST))
    assert first.exists() == (best == 1) and (not first.exists() or first.read_bytes() == b"first")
    record = Ledger(work.out).done(attempts_key(work.clip_key, work.options))
    assert record is not None and (record["chosen"], record["retry_gpu_s"]) == (best, 2.5)


def test_the_first_attempt_comes_back_after_a_better_one_took_its_place(work: ClipWork) -> None:
    select_best(work, attempts(work), 1)  # type: ignore[arg-type]
    select_best(work, attempts(work), 0)  # type: ignore[arg-type]
    assert Path(work.out, work.output).read_bytes() == b"first"
