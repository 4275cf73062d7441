"""Every command that opens an OUT of another schema version says so, and leaves the OUT as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.media_files import Media, make
from vace_batch.cli import app as cli
from vace_batch.errors import UsageError
from vace_batch.ledger.run_plan import write_plan

COMMANDS = (
    "run {manifest} -o {out}",
    "plan {manifest} -o {out}",
    "status {out}",
    "status {out} --json",
    "status {out} --watch",
    "explain {out} a",
    "report {out}",
    "report {out} --refresh",
    "retry {out}",
    "gc {out}",
)


@pytest.fixture
def archive(tmp_path: Path) -> dict[str, str]:
    """A manifest of one row, and an OUT as an earlier version left it: without a schema version."""
    make(tmp_path / "a.mp4", Media(num_frames=2))
    row = {
        "job_id": "a",
        "video_uri": "a.mp4",
        "task": "removal",
        "boxes": [{"x": 4, "y": 4, "width": 16, "height": 16}],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    out = tmp_path / "out"
    write_plan(str(out), [], {"manifest": "m", "manifest_digest": "d", "options": {}})
    run = json.loads((out / "run.json").read_text())
    del run["schema_version"]
    (out / "run.json").write_text(json.dumps(run))
    return {"manifest": str(tmp_path / "m.parquet"), "out": str(out)}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_folder_without_a_schema_version_is_refused(archive: dict[str, str], command: str) -> None:
    before = {path: path.read_bytes() for path in Path(archive["out"]).rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=f"{archive['out']}: has no schema version, expected 1; give a new OUT"):
        cli.app(command.format(**archive).split(), standalone_mode=False)
    assert {path: path.read_bytes() for path in Path(archive["out"]).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["run {manifest} -o {manifest}", "status {manifest}", "report {manifest}"])
def test_a_file_in_place_of_an_output_folder_is_refused(archive: dict[str, str], command: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be written|no run\.json here"):
        cli.app(command.format(**archive).split(), standalone_mode=False)
