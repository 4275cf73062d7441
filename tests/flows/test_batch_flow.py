"""Run the batch flow on a real Prefect server and a real Ray, with a stand-in engine: shards, tables, failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter
from prefect.states import Failed

from flows.batch import batch, main
from flows.driving import (
    FAILURES_KEY,
    SKIPPED_KEY,
    SUMMARY_KEY,
    WITH_FAILURES,
    Machines,
    is_cluster_failure,
    publish,
    shards,
)
from vace_batch.batch.batch import Batch
from vace_batch.batch.pools import open_runtime
from vace_batch.cluster.runtime import Runtime
from vace_batch.cluster.staff import ActorInfo
from vace_batch.cluster.units import PoolSpec
from vace_batch.errors import ClusterError, ManifestError, UsageError
from vace_batch.ledger.summary import Summary
from vace_batch.options import Options
from vace_batch.video.writer import write_clip

ROOT = Path(__file__).resolve().parents[2]
NUM_FRAMES = 5


def clip(path: Path, shade: int, num_frames: int = NUM_FRAMES) -> None:
    frames = np.full((num_frames, 64, 96, 3), shade, np.uint8)
    frames[:, 20:40, 20:40] = 220
    write_clip(str(path), frames, rate=Fraction(25))


def manifest(folder: Path, names: list[str], **more: str) -> Path:
    rows = [
        {
            "job_id": name,
            "video_uri": f"{name}.mp4",
            "task": "removal",
            "boxes": [{"x": 20.0, "y": 20.0, "width": 20.0, "height": 20.0}],
            **more,
        }
        for name in names
    ]
    path = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def latest(key: str) -> list[dict[str, Any]]:
    artifact = Artifact.get(key)
    assert artifact is not None and isinstance(artifact.data, str)
    table: list[dict[str, Any]] = json.loads(artifact.data)
    return table


def task_runs() -> int:
    with get_client(sync_client=True) as client:
        return len(client.read_task_runs(task_run_filter=TaskRunFilter(), limit=200))


@pytest.mark.usefixtures("prefect_server", "stand_in")
def test_shards_run_a_missing_video_fails_alone_and_a_second_run_finds_all_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Runtime] = []

    def open_one(options: Options, batch: Batch) -> Runtime:
        opened.append(open_runtime(options, batch))
        return opened[-1]

    monkeypatch.setattr("flows.driving.open_runtime", open_one)
    for number, name in enumerate(["a", "b"]):
        clip(tmp_path / f"{name}.mp4", 40 + 60 * number)
    path, out = manifest(tmp_path, ["a", "gone", "b"]), tmp_path / "out"

    state = batch(str(path), str(out), shard_size=2, cpu_actors=1, gpu_actors=1, return_state=True)

    counters = state.result()
    assert {**counters, "windows": 0} == {
        "planned": 3,
        "done": 2,
        "failed": 1,
        "skipped": 0,
        "pending": 0,
        "windows": 0,
    }
    assert (state.name, state.type.value) == (WITH_FAILURES, "COMPLETED")
    assert len(opened) == 1, "the second shard found the actors of the first"
    assert sorted(video.name for video in (out / "videos").iterdir()) == ["a.mp4", "b.mp4"]
    (summary,) = latest(SUMMARY_KEY)
    assert (summary["planned"], summary["done"], summary["failed"]) == (3, 2, 1)
    (failed,) = latest(FAILURES_KEY)
    assert failed["job_id"] == "gone" and failed["error_code"]
    tasks_before = task_runs()

    again = batch(str(path), str(out), shard_size=2, return_state=True)

    assert again.result() == counters
    assert task_runs() == tasks_before


def test_failed_and_skipped_rows_have_a_table_each(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr("flows.driving.create_table_artifact", lambda rows, key, **_: tables.update({key: rows}))
    row = {"error_code": None, "runs": 1, "output_uri": "o"}
    jobs = [
        {**row, "job_id": "a", "status": "skipped", "reason": "no person was found in 9 frames looked at"},
        {**row, "job_id": "b", "status": "failed", "reason": "no such file", "error_code": "not_found"},
    ]
    publish(Summary(out="o", planned=2, done=0, failed=1, skipped=1, pending=0, windows=0, jobs=cast(Any, jobs)))
    assert tables[SKIPPED_KEY] == [{"job_id": "a", "reason": "no person was found in 9 frames looked at"}]
    assert [row["job_id"] for row in tables[FAILURES_KEY]] == ["b"]
    assert tables[SUMMARY_KEY][0]["skipped"] == 1


@pytest.mark.usefixtures("prefect_server")
def test_a_bad_manifest_fails_the_flow_with_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"job_id": "a", "video_uri": "a.mp4", "task": "paint"}, {"job_id": "a"}]), path
    )
    with pytest.raises(ManifestError) as error:
        batch(str(path), str(tmp_path / "out"))
    assert len(error.value.faults) >= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("prefect_server")
def test_the_command_prints_the_faults_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer import Exit

    with pytest.raises(Exit) as left:
        main(manifest=str(tmp_path / "none.parquet"), out=str(tmp_path / "out"))
    assert left.value.exit_code == 2
    assert "none.parquet" in capsys.readouterr().err


def test_shards_keep_order_within_a_priority_and_leave_nothing_out() -> None:
    def numbers(*priorities: int) -> list[list[int]]:
        works: Any = [SimpleNamespace(job=SimpleNamespace(priority=p), number=n) for n, p in enumerate(priorities)]
        return [[work.number for work in part] for part in cast(Any, shards(works, 3))]

    assert numbers(*[0] * 7) == [[0, 1, 2], [3, 4, 5], [6]]
    assert numbers(0, 0, 0, -1, 5, 0, 5) == [[4, 6, 0], [1, 2, 5], [3]], "priority holds across shards"
    assert numbers() == []
    with pytest.raises(UsageError, match="shard_size: expected at least 1, got 0"):
        list(shards([], 0))


def test_only_a_lost_machine_is_worth_a_retry() -> None:
    nothing: Any = None
    assert is_cluster_failure(nothing, nothing, Failed(data=ClusterError("no actor")))
    assert not is_cluster_failure(nothing, nothing, Failed(data=UsageError("model")))
    assert not is_cluster_failure(nothing, nothing, Failed(data=ZeroDivisionError()))


class Mortal(Runtime):
    """A runtime without machines; with `dies` its run fails as after the loss of the head node."""

    def __init__(self, *, dies: bool) -> None:
        super().__init__([PoolSpec(name="gpu"), PoolSpec(name="cpu")])
        self.dies = dies
        self.closed = False

    def __enter__(self) -> Mortal:
        return self

    def actors(self) -> list[ActorInfo]:
        return []

    def close(self) -> None:
        self.closed = True

    def run(self, *args: Any, **more: Any) -> Any:
        if self.dies:
            raise ClusterError("the head node is gone")


def test_after_a_cluster_failure_the_next_try_gets_a_new_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[Mortal] = []

    def open_one(options: Options, batch: Batch) -> Runtime:
        opened.append(Mortal(dies=not opened))
        return opened[-1]

    monkeypatch.setattr("flows.driving.open_runtime", open_one)
    nothing = Batch(out=str(tmp_path), options=Options(), works=(), planned=(), finished=frozenset())
    with Machines(Options()) as machines:
        with pytest.raises(ClusterError, match="head node"):
            machines.run(nothing, (), lambda progress: None)
        assert [one.closed for one in opened] == [True]
        machines.run(nothing, (), lambda progress: None)
        machines.run(nothing, (), lambda progress: None)
        assert [one.closed for one in opened] == [True, False]
    assert [one.closed for one in opened] == [True, True]


def test_importing_the_flow_leaves_telemetry_off() -> None:
    code = "import flows.batch, os; print(os.environ['DO_NOT_TRACK'], os.environ['PREFECT_SERVER_ANALYTICS_ENABLED'])"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DO_NOT", "PREFECT"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "false"]
