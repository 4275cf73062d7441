"""Make output folders as a run leaves them, and read reports back, for tests of the report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vace_batch.geometry import Box, Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.results import RESULT_SCHEMA
from vace_batch.ledger.run_plan import PlannedJob, write_plan
from vace_batch.manifest.job import Job, job_json
from vace_batch.masks.store import box_mask, write_masks
from vace_batch.planning.windows import Shot
from vace_batch.steps.clip_plan import CLIP_PLAN, ClipPlan
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.writer import write_clip

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "line\u2028separator\u2029\u0000\u202etxt.exe",
    "__proto__",
    "constructor",
    "javascript:window.hacked=1",
    "=HYPERLINK(1)",
    "a'b\"c\\d`${1}",
    "{{ 7*7 }}{% raw %}",
    "日本語 🎬",
)
"""Names and reasons that are markup, script, template or formula to a careless page."""

_VERDICT = [("verdict", pa.string()), ("score", pa.float64()), ("reasons", pa.list_(pa.string()))]
_VERDICT += [("checks", pa.list_(pa.string())), ("predicted_gpu_s", pa.float64())]
_VERDICT += [("metrics", pa.string()), ("attempts", pa.string()), ("retry_gpu_s", pa.float64())]
_BATCH = 2_000


def jobs(count: int) -> list[Job]:
    """Make `count` removal jobs."""
    return [
        Job(job_id=f"clip-{number:04d}", video_uri=f"/media/{number}.mp4", task="removal") for number in range(count)
    ]


def parse(data: bytes) -> tuple[str, int, Any]:
    """Read a data script back: kind, number, value."""
    found = re.fullmatch(rb'vaceBatchData\("(\w+)",(\d+),(".*")\);\n', data)
    assert found is not None, data[:200]
    return found[1].decode(), int(found[2]), json.loads(json.loads(found[3]))


def clips_of(folder: Path) -> list[dict[str, Any]]:
    """Read the views of all clips of a written report."""
    return [clip for path in sorted(folder.glob("data/clips-*.js")) for clip in parse(path.read_bytes())[2]]


def result(number: int, **fields: Any) -> dict[str, Any]:
    """Make a row of the results for clip `number`; one of 12 clips fails, one of 20 is skipped."""
    status = "failed" if number % 12 == 5 else "skipped" if number % 20 == 7 else "done"
    windows = 0 if status != "done" else 1 + number % 3
    verdict = None if status != "done" else ("fail" if number % 40 == 3 else "review" if number % 11 == 4 else "pass")
    row: dict[str, Any] = {
        "status": status,
        "error_code": "damaged_video" if status == "failed" else None,
        "reason": {"failed": f"frame {number % 97} cannot be decoded", "skipped": "nothing to change was found"}.get(
            status
        ),
        "runs": 1 + (number % 50 == 0),
        "windows": windows,
        "seconds": 4.0 + number % 17,
        "notes": ["captions were copied"] if number % 9 == 0 else [],
        "finished_at": datetime.fromtimestamp(1_795_000_000 + 2.4 * number, UTC).isoformat(timespec="milliseconds"),
        "settings": json.dumps({"model": "Wan-AI/Wan2.1-VACE-1.3B", "preset": "quality" if number % 4 else "fast"}),
        "window_rows": [
            {"key": f"window-{number}-{at}", "region": 0, "start": 64 * at, "stop": 64 * at + 81, "num_frames": 81}
            | {"width": 832, "height": 480, "seed": 2**60 + number, "seconds": 1.5 + number % 7 / 3}
            for at in range(windows)
        ],
        "verdict": verdict,
        "reasons": [] if verdict in (None, "pass") else ["the border of the fill shows, by 4.1 levels"],
        "checks": [] if verdict in (None, "pass") else ["seam", "blur"] if verdict == "fail" else ["seam"],
    }
    return row | fields


def make_out(
    out: Path,
    jobs: Sequence[Job],
    rows: Iterable[dict[str, Any] | None],
    order: Sequence[int] | None = None,
    manifest: str = "manifest.parquet",
) -> str:
    """Make an output folder of jobs with their rows, None for an unfinished job; results in `order`."""
    planned = [
        PlannedJob(
            job_id=job.job_id,
            clip_key=f"clip-{number:032x}",
            prep_key=f"prep-{number:032x}",
            output=f"videos/{number}.mp4",
            row=job_json(job),
        )
        for number, job in enumerate(jobs)
    ]
    write_plan(str(out), planned, {"manifest": manifest, "options": {}})
    write_rows(out, planned, rows, order)
    return str(out)


def make_filmed_out(folder: Path) -> str:
    """Make an output folder of one clip with source, result, plan and masks: a square removed from a gray ground."""
    folder.mkdir()
    source, out = str(folder / "source.mp4"), folder / "out"
    (out / "videos").mkdir(parents=True)
    frames = [np.full((90, 160, 3), 60 + number, np.uint8) for number in range(30)]
    write_clip(str(out / "videos/0.mp4"), frames, rate=Fraction(10))
    for frame in frames[20:]:
        frame[30:60, 40:90] = (200, 30, 30)
    write_clip(source, frames, rate=Fraction(10))
    job = Job(job_id="square", video_uri=source, task="removal", targets=("square",))
    row = result(4, status="done", verdict="review", finished_at="2026-11-23T01:00:00+00:00")
    make_out(out, [job], [row], manifest=str(folder / "manifest.parquet"))
    size = Size(160, 90)
    write_masks(str(out / "masks.parquet"), size, (box_mask(number, Box(40, 30, 50, 30)) for number in range(20, 30)))
    whole = Box(0, 0, 160, 90)
    plan = ClipPlan(
        size=size,
        num_frames=30,
        shots=(Shot(start=0, stop=30),),
        regions=(),
        windows=(),
        masked_frames=10,
        canvas=Canvas(size=size, source=whole, kept=whole),
        masks="masks.parquet",
    )
    Ledger(str(out)).commit(f"prep-{0:032x}", {"plan": CLIP_PLAN.dump_python(plan, mode="json")})
    return str(out)


def write_rows(
    out: Path, planned: Sequence[PlannedJob], rows: Iterable[dict[str, Any] | None], order: Sequence[int] | None
) -> None:
    schema = RESULT_SCHEMA
    for name, type_ in _VERDICT:
        schema = schema if name in schema.names else schema.append(pa.field(name, type_))
    writers = {}
    for status in ("done", "failed", "skipped"):
        folder = out / "results" / f"status={status}"
        folder.mkdir(parents=True, exist_ok=True)
        writers[status] = pq.ParquetWriter(folder / "clips.parquet", schema)
    found = zip(planned, rows, strict=True)
    pairs: Iterator[Any] = found if order is None else (lambda all_: (all_[at] for at in order))(list(found))
    while some := list(islice(pairs, _BATCH)):
        for status, writer in writers.items():
            mine = [
                {"job_id": job.job_id, "clip_key": job.clip_key, "output_uri": str(out / job.output), **row}
                for job, row in some
                if row is not None and row["status"] == status
            ]
            writer.write_table(pa.Table.from_pylist(mine, schema=schema))
    for writer in writers.values():
        writer.close()
