"""With `--deterministic` the real model paints equal bytes, whatever rows, orders and calls a window comes with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from tests.support.engine_windows import counting
from tests.support.media_files import Media, make
from vace_batch.batch.identity import works_of
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Job, Sampling
from vace_batch.masks.models import MaskModels
from vace_batch.options import EngineSettings, Options
from vace_batch.steps.build import build
from vace_batch.steps.generate import generate
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.storage import files as storage
from vace_batch.vace.loading import open_engine

ENGINE = EngineSettings(deterministic=True)
BOX = BoxKey(x=30, y=20, width=24, height=24)


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    threads, workspace = torch.get_num_threads(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.set_num_threads(threads)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@dataclass
class Painted:
    """Window artifacts by key, videos by name, and the sizes of the transformer's batches."""

    windows: dict[str, bytes] = field(default_factory=dict)
    videos: dict[str, bytes] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Four rows whose windows have one shape; the last masks the whole picture, so that a stream of it is neutral."""
    path = make(tmp_path_factory.mktemp("clips") / "clip.mp4", Media(width=64, height=48, num_frames=9))
    row = Job(job_id="", video_uri=path, task="inpainting", background="off", sampling=Sampling(num_inference_steps=2))
    whole = BoxKey(x=0, y=0, width=64, height=48)
    boxes = {"a": whole, "b": BoxKey(x=4, y=4, width=50, height=36), "c": replace(whole, width=60), "d": whole}
    return [replace(row, job_id=name, prompt=f"a lake {name}", boxes=(box,)) for name, box in boxes.items()]


def paint(jobs: Sequence[Job], out: str, calls: Sequence[int], engine: EngineSettings = ENGINE) -> Painted:
    """Run the rows' steps in their order; the windows go to the engine in calls of these sizes."""
    options, painted = Options(engine=engine), Painted()
    works = works_of(jobs, out, options, str(Path(jobs[0].video_uri).parent))
    plans = [prepare(work, MaskModels()) for work in works]
    vcus = [build(work, plan, window) for work, plan in zip(works, plans, strict=True) for window in plan.windows]
    opened = open_engine("tiny", settings=engine, prompts_uri=storage.join(out, "prompts"))
    with counting(opened.model.transformer) as painted.batches:
        for size in calls:
            generate(vcus[:size], opened, out)()
            del vcus[:size]
    assert not vcus
    for work, plan in zip(works, plans, strict=True):
        record = stitch(work, plan)
        painted.videos[work.job.job_id] = Path(out, work.output).read_bytes()
        for row in record["window_rows"]:
            window = Ledger(out).window(row["key"])
            assert window is not None
            painted.windows[row["key"]] = Path(out, window["artifact"]).read_bytes()
    return painted


def test_other_rows_orders_and_calls_give_equal_bytes(jobs: list[Job], tmp_path: Path) -> None:
    together = paint(jobs, str(tmp_path / "one"), [4])
    assert set(together.batches) == {1} and len(together.windows) == 4
    other = [replace(job, priority=index) for index, job in enumerate(jobs[2::-1])]
    apart = paint(other, str(tmp_path / "two"), [1, 2])
    assert together.windows.items() > apart.windows.items() and together.videos.items() > apart.videos.items()


def test_without_it_windows_share_forwards_and_keys_differ(jobs: list[Job], tmp_path: Path) -> None:
    shared = paint(jobs, str(tmp_path / "one"), [4], EngineSettings())
    assert set(shared.batches) != {1}
    assert shared.windows.keys().isdisjoint(paint(jobs[:1], str(tmp_path / "two"), [1]).windows)
