"""The plan of a run, and output folders of another schema version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.records import planned_jobs as planned
from vace_batch.errors import UsageError
from vace_batch.ledger import run_plan
from vace_batch.ledger.garbage import find_garbage
from vace_batch.ledger.run_plan import read_plan, write_plan
from vace_batch.ledger.schema import SCHEMA_VERSION
from vace_batch.ledger.summary import summarise
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_files


def test_half_an_answer_is_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may return half a file; the plan is then read again."""
    out = "memory://half-a-plan"
    write_plan(out, planned(3), {})
    whole, calls = storage.read_bytes, []

    def short_at_first(uri: str) -> bytes:
        data = whole(uri)
        calls.append(uri)
        return data[: len(data) // 2] if len([call for call in calls if call == uri]) == 1 else data

    monkeypatch.setattr(storage, "read_bytes", short_at_first)
    assert read_plan(out) == tuple(planned(3))
    assert sum(call.endswith(".parquet") for call in calls) == 2


def test_the_plan_of_an_unchanged_manifest_is_written_once(tmp_path: Path) -> None:
    out = str(tmp_path)
    write_plan(out, planned(2), {})
    first = list_files(storage.join(out, "plan"))
    write_plan(out, planned(2), {})
    assert list_files(storage.join(out, "plan")) == first
    write_plan(out, planned(3), {})
    assert len(list_files(storage.join(out, "plan"))) == 2 and len(run_plan.read_plan(out)) == 3


@pytest.mark.parametrize(("found", "said"), [(None, "no schema version"), (SCHEMA_VERSION + 1, "schema version 2")])
def test_an_output_folder_of_another_version_is_refused(tmp_path: Path, found: int | None, said: str) -> None:
    out, jobs = str(tmp_path), planned(1)
    write_plan(out, jobs, {"manifest": "m"})
    run = storage.read_json(f"{out}/run.json")
    assert run.pop("schema_version") == SCHEMA_VERSION
    storage.publish(f"{out}/run.json", json.dumps(run if found is None else run | {"schema_version": found}).encode())
    for opens in (
        lambda: summarise(out),
        lambda: summarise(out, jobs),
        lambda: run_plan.read_run(out),
        lambda: read_plan(out),
        lambda: run_plan.find_job(out, "j0"),
        lambda: find_garbage(out),
        lambda: write_plan(out, jobs, {"manifest": "m"}),
    ):
        with pytest.raises(UsageError, match=rf"{out}: has {said}, expected {SCHEMA_VERSION}; give a new OUT"):
            opens()
