"""Run many small jobs, a fifth of them bad in every known way: each job ends with a reason, the driver stays small.

    python benchmarks/bad_rows.py [--jobs 1000]

Good rows remove a moving block from clips of 24 frames; every tenth of them needs the model. Bad ones are the files of
`tests/support/bad_media.py` and rows that ask for what cannot be.
What the manifest reader itself refuses is counted apart:
there nothing is run at all. The driver's resident size is taken from /proc at each quarter of the rows.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from tests.support.bad_media import good_video, write_broken, write_images, write_lying, write_masks, write_special
from vace_batch.batch.batch import close_batch, open_batch
from vace_batch.batch.driver import run_clips
from vace_batch.batch.pools import open_runtime
from vace_batch.batch.progress import Progress
from vace_batch.errors import ManifestError
from vace_batch.ledger.summary import Summary
from vace_batch.log import quiet_environment
from vace_batch.manifest.reader import read_manifest
from vace_batch.options import Options
from vace_batch.video.writer import write_clip

BAD_SHARE = 5
SOURCES = 8
FRAMES = 24
BOX = {"x": 8.0, "y": 8.0, "width": 16.0, "height": 16.0}

Row = dict[str, Any]


def write_sources(folder: Path) -> None:
    """Clips of a block that crosses a still picture."""
    noise = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    ground = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    for number in range(SOURCES):
        write_clip(folder / f"good{number}.mp4", _moving(ground, number), rate=Fraction(25))


def _moving(ground: NDArray[np.uint8], number: int) -> Iterator[NDArray[np.uint8]]:
    for index in range(FRAMES):
        frame = ground.copy()
        frame[16:28, 2 * index : 2 * index + 10] = (250, 20 * number, 30)
        yield frame


def good_row(number: int) -> Row:
    """Each its own job: the boxes or the seed differ."""
    job = {"job_id": f"good{number}", "video_uri": f"good{number % SOURCES}.mp4", "task": "removal"}
    if number % 10 == 0:  # static boxes leave something that no frame shows
        return job | {"boxes": [BOX], "seed": number}
    keys = [(0, 0.0), (FRAMES - 1, 2.0 * (FRAMES - 1))]
    size = {"y": 15.0, "width": 11.0 + number / 10_000, "height": 14.0}
    return job | {"boxes": [{"frame": frame, "x": x, **size} for frame, x in keys]}


def bad_rows(folder: Path, count: int) -> tuple[list[Row], dict[str, str]]:
    """`count` rows of all classes in turn, and the code of each class."""
    good = good_video(folder)
    (folder / "ok.mp4").write_bytes(good)
    files = write_broken(folder, good) | write_lying(folder, good) | write_images(folder) | write_special(folder)
    classes: dict[str, tuple[str, Row]] = {
        name: (code, {"video_uri": name, "boxes": [BOX]}) for name, code in files.items() if code != "ok"
    }
    classes |= {f"mask {name}": (code, {"mask_uri": name}) for name, code in write_masks(folder).items()}
    classes |= {
        "outside of the roots": ("not_allowed", {"video_uri": "/etc/passwd", "boxes": [BOX]}),
        "device": ("not_allowed", {"video_uri": "/dev/zero", "boxes": [BOX]}),
        "bucket that nobody named": ("not_allowed", {"video_uri": "s3://elsewhere/a.mp4", "boxes": [BOX]}),
        "model that nobody named": ("model_not_allowed", {"model": "somebody/model", "boxes": [BOX]}),
        "class without a detector": ("no_detector", {"targets": ["horse"]}),
        "box outside of the picture": ("", {"boxes": [{**BOX, "x": 900.0}]}),
    }
    names = list(classes)
    rows = [
        {"job_id": f"bad{number}", "video_uri": "ok.mp4", "task": "removal", "x_class": name, **classes[name][1]}
        for number, name in ((number, names[number % len(names)]) for number in range(count))
    ]
    return rows, {name: code for name, (code, _) in classes.items()}


def write_manifest(path: Path, rows: list[Row]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)


def refused_rows(folder: Path) -> int:
    """Rows that the manifest reader refuses, each named by a line of its own."""
    row = {"job_id": "a", "video_uri": "ok.mp4", "task": "removal", "boxes": [BOX]}
    bad = [{"job_id": ""}, {"job_id": ".."}, {"job_id": "nul\0"}, {"video_uri": "http://127.0.0.1:9/x"}]
    bad += [{"boxes": [{**BOX, "width": -1.0}]}, {"boxes": [{**BOX, "x": float("nan")}]}, {"boxes": None}]
    bad += [{"task": "paint"}, {"seed": -1}, {"dilate": 10**6}, {"prompt": "x" * 10**6}, {"start_s": 5.0, "end_s": 1.0}]
    rows = [{**row, "job_id": f"row{number}", **fields} for number, fields in enumerate(bad)]
    write_manifest(folder / "refused.parquet", rows)
    try:
        read_manifest(str(folder / "refused.parquet"))
    except ManifestError as error:
        return len({fault.row for fault in error.faults}) if len(error.faults) >= len(bad) else 0
    return 0


def resident_mib() -> float:
    """Return the resident size of this process, without its children, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def check(summary: Summary, rows: list[Row], codes: dict[str, str]) -> dict[str, list[str]]:
    """See that every row has its end and every bad class a reason of its own; the reasons by class."""
    jobs = {job["job_id"]: job for job in summary.jobs}
    assert summary.pending == 0 and set(jobs) == {row["job_id"] for row in rows}, "a row was lost"
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        job, kind = jobs[row["job_id"]], row.get("x_class")
        if kind is None:
            assert job["status"] == "done", job
            continue
        assert job["status"] == "failed", (kind, job)
        assert job["error_code"] == codes[kind] or not codes[kind], (kind, job)
        assert len(job["reason"]) > 15 and job["runs"] <= 3, job
        reasons[kind].append(f"{job['error_code']}: {job['reason']}")
    return reasons


def main(jobs: Annotated[int, typer.Option(help="rows in all")] = 1000) -> None:
    """Run the jobs and print their outcomes."""
    quiet_environment()
    with tempfile.TemporaryDirectory(prefix="bad-rows-") as name:
        folder = Path(name)
        write_sources(folder)
        bad, codes = bad_rows(folder, jobs // BAD_SHARE)
        rows = [good_row(number) for number in range(jobs - len(bad))]
        for number, row in enumerate(bad):  # spread among the good ones
            rows.insert(number * BAD_SHARE, row)
        write_manifest(folder / "m.parquet", rows)
        sizes: dict[int, float] = {}

        def look(progress: Progress) -> None:
            ended = progress.clips_done + progress.clips_failed + progress.clips_skipped
            sizes.setdefault(4 * ended // jobs, resident_mib())

        begin = time.monotonic()
        batch = open_batch(read_manifest(str(folder / "m.parquet")), str(folder / "out"), Options())
        with open_runtime(batch.options) as runtime:
            run_clips(batch, batch.pending, runtime, show=look)
        summary = close_batch(batch)
        seconds = time.monotonic() - begin
        reasons = check(summary, rows, codes)
        refused = refused_rows(folder)
    for kind, told in sorted(reasons.items()):
        print(f"{len(told):4} x {kind:28} {re.sub(re.escape(name), '', told[0])[:150]}")
    counts = Counter(re.sub(r"bad\d+", "", told[0]) for told in reasons.values())
    assert max(counts.values()) == 1, f"two classes with one reason: {counts.most_common(1)}"
    quarters = {f"{25 * quarter}%": round(size) for quarter, size in sizes.items()}
    result = {"jobs": jobs, "done": summary.done, "failed": summary.failed, "lost": summary.pending}
    result |= {"classes": len(reasons), "reasons": len(counts), "refused_by_the_reader": refused}
    print(json.dumps({**result, "seconds": round(seconds), "driver_mib": quarters}))


if __name__ == "__main__":
    typer.run(main)
