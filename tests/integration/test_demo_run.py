"""Run the demo by its own command: each row's result keeps the row's promise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vace_batch.demo import clips
from vace_batch.ledger.summary import summarise
from vace_batch.manifest.reader import read_manifest
from vace_batch.masks.detectors.text import TextFinder
from vace_batch.video.reader import read_frames

Pictures = NDArray[np.int16]


@dataclass(frozen=True)
class Shown:
    """The demo's output folder and printed text, and the record and frames before and after of each job."""

    folder: Path
    said: str
    records: dict[str, dict[str, Any]]
    before: dict[str, Pictures]
    after: dict[str, Pictures]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "vace_batch", "demo", "-o", str(folder)],
        capture_output=True, text=True, timeout=840, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    records = {record["job_id"]: dict(record) for record in summarise(str(folder / "results")).jobs}
    jobs = read_manifest(folder / "source" / "manifest.parquet").jobs
    yield Shown(
        folder=folder,
        said=done.stdout,
        records=records,
        before={job.job_id: frames(job.video_uri) for job in jobs},
        after={job.job_id: frames(records[job.job_id]["output_uri"]) for job in jobs},
    )


def frames(path: str) -> Pictures:
    return np.stack([frame.rgb() for frame in read_frames(path)]).astype(np.int16)


def covered(scene: Iterator[clips.Shown]) -> NDArray[np.bool_]:
    return np.stack([frame.object_HW > 0.5 for frame in scene])


def test_every_row_is_done_and_what_is_printed_is_there(shown: Shown) -> None:
    assert {record["status"] for record in shown.records.values()} == {"done"}
    named = dict(line.split(maxsplit=1) for line in shown.said.splitlines() if line.startswith(("sheet", "report")))
    assert Path(named["report"]).is_file() and len(list(Path(named["report"]).parent.glob("previews/*/*.mp4"))) >= 12
    with Image.open(named["sheet"]) as sheet:
        assert sheet.width > 1200 and sheet.height > 1600


def test_the_ball_is_gone_and_part_of_it_was_recovered_and_part_painted(shown: Shown) -> None:
    ball = covered(clips.ball_over_the_mountains())
    redness = [
        pictures["ball-by-class"][..., 0] - pictures["ball-by-class"][..., 2]
        for pictures in (shown.before, shown.after)
    ]
    assert (redness[0][ball] > 40).mean() > 0.9
    assert (redness[1][ball] > 40).mean() < 0.001
    assert shown.records["ball-by-class"]["windows"] >= 1


def test_the_balloon_is_painted_over(shown: Shown) -> None:
    balloon = covered(clips.balloon_at_rest())
    assert shown.records["balloon-painted-over"]["windows"] >= 1
    pictures = (shown.before["balloon-painted-over"], shown.after["balloon-painted-over"])
    was, is_ = (np.ptp(np.stack([frame[balloon[0]] for frame in each[::12]]), axis=2).std() for each in pictures)
    assert is_ < 0.5 * was  # its gores are as colourful as the sky is not
    ring = ~balloon[0] & (
        np.hypot(*(np.mgrid[: clips.SIZE.height, : clips.SIZE.width] - np.array([[[96]], [[200]]]))) < 60
    )
    after = shown.after["balloon-painted-over"]
    assert np.abs(after[balloon].mean(axis=0) - after[:, ring].mean(axis=(0, 1))).max() < 25


def test_the_pavement_comes_back_as_it_was(shown: Shown) -> None:
    horse = covered(clips.horse_on_the_pavement())
    pavement = np.median(shown.before["horse-by-mask"], axis=0)
    assert np.abs(shown.before["horse-by-mask"] - pavement)[horse].mean() > 40
    assert np.abs(shown.after["horse-by-mask"] - pavement)[horse].mean() < 5
    assert shown.records["horse-by-mask"]["windows"] == 0


def test_no_text_is_left_to_read(shown: Shown) -> None:
    finder = TextFinder()
    middles = [lines[len(lines) // 2] for lines, _ in clips.SUBTITLES]
    found = [
        [len(finder.find(pictures["subtitles"][index].astype(np.uint8), clips.SIZE, index)) for index in middles]
        for pictures in (shown.before, shown.after)
    ]
    assert min(found[0]) >= 1 and found[1] == [0, 0]


def test_the_cat_is_blue_and_still_a_cat(shown: Shown) -> None:
    before, after = shown.before["cat-restyled"], shown.after["cat-restyled"]
    red, _, blue = after.reshape(-1, 3).mean(axis=0)
    assert blue - red > 60
    for one, other in zip(before[::8].mean(axis=3), after[::8].mean(axis=3), strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8


def test_the_nebula_has_sides_near_the_true_ones(shown: Shown) -> None:
    truth = np.stack([frame.picture_HW3 for frame in clips.planet_before_a_nebula()]).astype(np.int16)
    after = shown.after["planet-made-wider"]
    assert after.shape == truth.shape
    sides = np.r_[: clips.SIDE_PX, -clips.SIDE_PX : 0]
    off, gray = (
        np.sqrt(np.mean(np.square(made[:, :, sides] - truth[:, :, sides], dtype=float)))
        for made in (after, np.full_like(truth, 128))
    )
    assert off < 0.8 * gray
    kept = np.s_[:, :, clips.SIDE_PX + 8 : -clips.SIDE_PX - 8]
    assert np.abs(after[kept] - truth[kept]).mean() < 3
