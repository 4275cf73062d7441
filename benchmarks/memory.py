"""Peak memory of masks, background and stitching for a short and a long clip of the same picture.

    python benchmarks/memory.py [--short 300] [--long 6000] [--width 1280] [--height 720] [--scene still]

Each length runs in a process of its own, which reports its peak resident size; the long clip's peer is the short one.
An object crosses the frame over and over, so every frame has a mask. Scenes: `still`, all of the background is seen;
`parallax`, the camera sways before two depths, so that every frame has a mesh; `generated`, nothing is recovered and
the windows' frames, flat gray in place of a model's, are pasted in.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from vace_batch.batch.identity import works_of
from vace_batch.demo.clips import pictures_folder
from vace_batch.ledger.ledger import Ledger
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch
from vace_batch.storage import files as storage
from vace_batch.video.writer import encode_lossless, write_clip

PERIOD = 150
SWAY_PX = 60


def frames(scene: str, num_frames: int, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    picture = cv2.imread(str(pictures_folder() / "coffee.png"))
    ground = cv2.resize(picture, (width + 2 * SWAY_PX, height), interpolation=cv2.INTER_CUBIC)[..., ::-1]
    for index in range(num_frames):
        sway = round(SWAY_PX * math.sin(2 * math.pi * index / PERIOD)) if scene == "parallax" else 0
        frame = ground[:, SWAY_PX + sway : SWAY_PX + sway + width].copy()
        near = SWAY_PX + sway // 2
        frame[: height // 2] = ground[: height // 2, near : near + width]
        x = 40 + (width - 200) * (index % PERIOD) // PERIOD
        frame[height // 2 : height // 2 + 80, x : x + 80] = (200, 30, 40)
        yield frame


def boxes(num_frames: int, width: int, height: int) -> tuple[BoxKey, ...]:
    keys = []
    for index in range(num_frames):
        x = 40 + (width - 200) * (index % PERIOD) // PERIOD
        keys.append(BoxKey(x=x - 2, y=height // 2 - 2, width=84, height=84, frame=index))
    return tuple(keys)


def one(scene: str, num_frames: int, width: int, height: int) -> None:
    """Run one clip and print its peak resident size in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.mp4")
        with ProcessPoolExecutor(1) as writer:  # its memory is not counted
            writer.submit(make, path, scene, num_frames, width, height).result()
        background = "none" if scene == "generated" else "auto"
        keys = boxes(num_frames, width, height)
        job = Job(job_id="clip", video_uri=path, task="removal", boxes=keys, background=background)
        [work] = works_of([job], folder, Options(), folder)
        started = time.monotonic()
        plan = prepare(work, MaskModels())
        prepared = time.monotonic()
        for planned in plan.windows:
            commit_gray(work, plan, planned)
        stitch(work, plan)
        report = {
            "scene": scene,
            "frames": num_frames,
            "windows": len(plan.windows),
            "recovered": plan.recovered_share,
            "prepare_s": round(prepared - started, 1),
            "stitch_s": round(time.monotonic() - prepared, 1),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        print(json.dumps(report))


def commit_gray(work: ClipWork, plan: ClipPlan, planned: PlannedWindow) -> None:
    region, ledger = plan.region_of(planned), Ledger(work.out)
    key = work.window_key(planned, region)
    uri = ledger.artifact_uri(key, ".mkv")
    gray = np.full((planned.window.num_frames, region.size.height, region.size.width, 3), 127, np.uint8)
    storage.publish(uri, encode_lossless(gray))
    ledger.commit(key, {"artifact": ledger.relative(uri), "seconds": 0.0, "seed": 1})


def make(path: str, scene: str, num_frames: int, width: int, height: int) -> None:
    write_clip(path, frames(scene, num_frames, width, height), rate=Fraction(25))


def main(
    short: Annotated[int, typer.Option()] = 300,
    long: Annotated[int, typer.Option()] = 6000,
    width: Annotated[int, typer.Option()] = 1280,
    height: Annotated[int, typer.Option()] = 720,
    scene: Annotated[str, typer.Option(help="still, parallax or generated")] = "still",
    only: Annotated[int, typer.Option(help="one length, in this process")] = 0,
) -> None:
    """Run both lengths and print the ratio of their peaks."""
    if only:
        one(scene, only, width, height)
        return
    peaks = []
    for num_frames in (short, long):
        size = ["--width", str(width), "--height", str(height), "--scene", scene]
        command = [sys.executable, __file__, "--only", str(num_frames), *size]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(report, flush=True)
        peaks.append(report["peak_mib"])
    print(f"{scene}: peak of {long} frames against {short}: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    typer.run(main)
