"""Draw the VCU of every task, frames and masks, as built from a manifest's row.

    python benchmarks/task_pictures.py [FOLDER] [--run]      default: task-pictures

Writes FOLDER/manifest.parquet, FOLDER/tasks-*.png and the command that runs the same manifest through the whole
pipeline. With --run it runs that, and draws what came of it as FOLDER/made-*.png; every row must be done.
A frame's neutral pixels (exactly 0.0) are drawn as a chequerboard; of a mask, white is generated. Depth and pose are
drawn by untrained weights of the right architecture unless FOLDER has yolo26n-depth.pt and yolo26n-pose.pt.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image, ImageDraw, ImageFont

from vace_batch.batch.identity import works_of
from vace_batch.demo.clips import ball_over_the_mountains, horse_on_the_pavement, keyframed_boxes, picture
from vace_batch.errors import ClipError
from vace_batch.manifest.job import Job
from vace_batch.manifest.reader import read_manifest
from vace_batch.manifest.schema import SCHEMA
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.build import build
from vace_batch.steps.prepare import prepare
from vace_batch.vcu.controls.networks import WHOLE_BODY
from vace_batch.vcu.unit import VCU
from vace_batch.video.reader import read_frames
from vace_batch.video.writer import write_clip

NUM_FRAMES = 21
COLUMNS, THUMB_PX, GAP_PX, LABEL_PX, ROWS_A_SHEET = 5, 176, 4, 24, 12
SUBJECTS = {"face.png": "astronaut.png", "cat.png": "chelsea.png", "cup.png": "coffee.png"}
Picture = np.ndarray[Any, np.dtype[np.uint8]]


def main(
    folder: Annotated[Path, typer.Argument()] = Path("task-pictures"),
    run: Annotated[bool, typer.Option("--run", help="through the whole pipeline, too")] = False,
) -> None:
    """Draw the sheets."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    boxes = write_media(folder)
    write_networks(folder)
    table = pa.Table.from_pylist([{"video_uri": "ball.mp4", **row} for row in rows(boxes)], schema=SCHEMA)
    pq.write_table(table, folder / "manifest.parquet")
    options = Options(depth=str(folder / "yolo26n-depth.pt"), pose=str(folder / "yolo26n-pose.pt"))
    manifest = read_manifest(str(folder / "manifest.parquet"))
    draw(folder, "tasks", [strip(job, built(job, folder, options)) for job in manifest.jobs])
    weights = ["--depth", str(options.depth), "--pose", str(options.pose)]
    command = ["vace_batch", "run", f"{folder}/manifest.parquet", "-o", f"{folder}/out", *weights]
    print(shlex.join(["vace-batch", *command[1:]]), flush=True)
    if run:
        here = [sys.executable, "-m", *command, "--json"]
        jobs = json.loads(subprocess.run(here, stdout=subprocess.PIPE, check=True).stdout)["jobs"]
        draw(folder, "made", [made(job) for job in jobs])
        print(f"{sum(job['status'] == 'done' for job in jobs)} of {len(manifest.jobs)} rows are done")


def draw(folder: Path, name: str, strips: list[Strip]) -> None:
    """Sheets of a dozen strips."""
    for number, start in enumerate(range(0, len(strips), ROWS_A_SHEET)):
        path = folder / f"{name}-{number}.png"
        stacked(strips[start : start + ROWS_A_SHEET]).save(path, optimize=True)
        print(path)


def rows(boxes: list[dict[str, float]]) -> Iterator[dict[str, Any]]:
    """One row a task and variant of the list in VACE's own annotators."""
    still = [{"x": 75.0, "y": 30.0, "width": 45.0, "height": 40.0}]
    left, right = ({"x": x, "y": 15.0, "width": 60.0, "height": 75.0} for x in (10.0, 120.0))
    style: dict[str, Any] = {"prompt": "a watercolour painting of mountains"}
    yield {"job_id": "removal", "task": "removal", "boxes": boxes, "background": "off"}
    horse = {"video_uri": "horse.mp4", "mask_uri": "masks"}
    hull = {"mask_shape": "hull", "dilate": "4px", "background": "off"}
    yield {"job_id": "removal, hull of a mask file", "task": "removal", **horse, **hull}
    yield {"job_id": "inpainting, mask", "task": "inpainting", **horse, **style}
    cat = {"reference_uris": ["cat.png"], "reference_mode": "salient"}
    yield {"job_id": "inpainting, still box, reference", "task": "inpainting", "boxes": still, **cat, **style}
    yield {"job_id": "outpainting", "task": "outpainting"} | style
    yield {"job_id": "outpainting, left and up", "task": "outpainting", "expand": {"left": 0.3, "up": 0.2}} | style
    inner = {"left": 0.2, "right": 0.2, "inner": True}
    yield {"job_id": "outpainting, inner", "task": "outpainting", "expand": inner} | style
    for mode in ("first", "last", "firstlast"):
        for unit in ("frame", "clip"):
            span = {"first": (0.32, 0.84), "last": (0.0, 0.48), "firstlast": (0.2, 0.64)}[mode]
            asked = {"extend": {"mode": mode, "unit": unit}, "start_s": span[0], "end_s": span[1]}
            yield {"job_id": f"extension, {mode} {unit}", "task": "extension", **asked} | style
    yield {"job_id": "extension, 0.5 s longer", "task": "extension", "extend": {"seconds": 0.5}} | style
    yield {"job_id": "t2v", "task": "t2v"} | style
    subject = [{"x": 120.0, "y": 10.0, "width": 200.0, "height": 260.0}]
    for mode, more in (("plain", {}), ("salient", {}), ("face", {}), ("subject", {"reference_boxes": subject})):
        for background in ("keep", "white"):
            chosen = {"reference_mode": mode, "reference_background": background, **more}
            uri = "cat.png" if mode == "salient" else "face.png"
            yield {"job_id": f"r2v, {mode}, {background}", "task": "r2v", "reference_uris": [uri], **chosen} | style
    for name in ("depth", "pose", "pose_body", "flow", "gray", "scribble", "plain"):
        yield {"job_id": f"restyle, {name}", "task": "restyle", "control": name} | style
    for name in ("layout_bbox", "layout_track"):
        yield {"job_id": f"restyle, {name}", "task": "restyle", "control": name, "boxes": boxes} | style
    yield {"job_id": "restyle, gray under a box", "task": "restyle", "control": "gray", "boxes": still} | style
    yield {
        "job_id": "restyle, gray and scribble",
        "task": "restyle",
        "control": "gray+scribble",
        "boxes": still,
    } | style
    with_cup = {"reference_uris": ["cup.png", "cat.png"], **style}
    yield {"job_id": "composition, reference", "task": "composition", "compose": "reference"} | with_cup
    yield {"job_id": "composition, animate", "task": "composition", "compose": "animate", "control": "gray"} | with_cup
    yield {"job_id": "composition, swap", "task": "composition", "compose": "swap", "boxes": boxes} | with_cup
    move = {"compose": "move", "control": "layout_bbox", "boxes": boxes, "extend": {}, "start_s": 0.04}
    yield {"job_id": "composition, move", "task": "composition", **move} | style
    yield {
        "job_id": "composition, expand",
        "task": "composition",
        "compose": "expand",
        "extend": {"seconds": 0.3},
    } | style
    late = {"extend": {"mode": "first"}, "start_s": 0.4}
    pairs: dict[str, dict[str, Any]] = {
        "repaint+repaint": {"boxes": [left, right]},
        "repaint+control": {"boxes": still, "control": "scribble"},
        "control+repaint": {"boxes": still, "control": "scribble"},
        "control+control": {"boxes": still, "control": "gray+scribble"},
        "extension+control": {"control": "gray", **late},
        "control+extension": {"control": "gray", **late},
        "extension+repaint": {"boxes": still, **late},
        "repaint+extension": {"boxes": still, "extend": {"seconds": 0.3}},
        "extension+extension": late,
    }
    for compose, more in pairs.items():
        yield {"job_id": f"composition, {compose}", "task": "composition", "compose": compose, **more} | style


@dataclass(frozen=True, slots=True)
class Strip:
    """The drawing of one job: its name and thumbnails in two rows."""

    label: str
    frames: list[Image.Image]
    masks: list[Image.Image]


def built(job: Job, folder: Path, options: Options) -> VCU | str:
    """Build the job's first VCU, or return the error's text."""
    out = str(folder / "out-of-pictures")
    (work,) = works_of([job], out, options, str(folder))
    try:
        plan = prepare(work, MaskModels())
        return build(work, plan, plan.windows[0])
    except (ClipError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def made(job: dict[str, Any]) -> Strip:
    """Frames of a finished job's output."""
    frames = [frame.rgb() for frame in read_frames(job["output_uri"])]
    chosen = np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)
    height, width = frames[0].shape[:2]
    label = f"{job['job_id']}: {len(frames)} frames of {width}x{height}, windows {job['windows']}"
    return Strip(label, [thumb(frames[index]) for index in chosen], [])


def strip(job: Job, vcu: VCU | str) -> Strip:
    if isinstance(vcu, str):
        return Strip(f"{job.job_id}: {vcu}", [], [])
    chosen = np.linspace(0, vcu.num_frames - 1, COLUMNS).round().astype(int)
    frames = [thumb(shown(vcu, int(index))) for index in chosen]
    masks = [thumb(np.repeat(vcu.mask_THW[index, ..., None], 3, axis=2).astype(np.uint8) * 255) for index in chosen]
    references = [thumb(reference) for reference in vcu.references]
    label = f"{job.job_id}: {vcu.num_frames} frames of {vcu.size}, generated {vcu.mask_THW.mean():.0%}"
    return Strip(label, frames + references, masks)


def shown(vcu: VCU, index: int) -> Picture:
    """A frame with its neutral pixels as a chequerboard."""
    height, width = vcu.frames_THWC.shape[1:3]
    y, x = np.mgrid[:height, :width] // 8
    board = np.where((x + y) % 2, 140, 115).astype(np.uint8)[..., None]
    return np.where(vcu.neutral_THW[index, ..., None], board, vcu.frames_THWC[index])


def thumb(pixels: Picture) -> Image.Image:
    height = round(THUMB_PX * pixels.shape[0] / pixels.shape[1])
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((THUMB_PX, height), Image.Resampling.BILINEAR)


def stacked(strips: list[Strip]) -> Image.Image:
    """One sheet of strips below each other."""
    heights = [
        LABEL_PX + (2 if one.masks else 1) * (max((i.height for i in one.frames), default=0) + GAP_PX) for one in strips
    ]
    columns = max(len(one.frames) for one in strips)
    sheet = Image.new("RGB", (columns * (THUMB_PX + GAP_PX), sum(heights)), "#20242c")
    draw, top = ImageDraw.Draw(sheet), 0
    for one, height in zip(strips, heights, strict=True):
        draw.text((4, top + 3), one.label, "#f2f4f7", font=ImageFont.load_default(15))
        for row, images in enumerate((one.frames, one.masks)):
            for column, image in enumerate(images):
                place = (column * (THUMB_PX + GAP_PX), top + LABEL_PX + row * (image.height + GAP_PX))
                sheet.paste(image, place)
        top += height
    return sheet


def write_media(folder: Path) -> list[dict[str, float]]:
    """Clips, masks and reference pictures; returns the keyframed boxes of the moving ball."""
    ball = list(ball_over_the_mountains())[::2][:NUM_FRAMES]
    horse = list(horse_on_the_pavement())[:NUM_FRAMES]
    for name, clip in (("ball", ball), ("horse", horse)):
        halves = (np.asarray(Image.fromarray(frame.picture_HW3).reduce(2)) for frame in clip)
        write_clip(str(folder / f"{name}.mp4"), halves, rate=Fraction(25), tone_hz=220.0)
    (folder / "masks").mkdir(exist_ok=True)
    for index, frame in enumerate(horse):
        mask = np.where(frame.object_HW[::2, ::2] > 0, 255, 0).astype(np.uint8)
        Image.fromarray(mask).save(folder / f"masks/{index:04}.png")
    for name, source in SUBJECTS.items():
        Image.fromarray(picture(source)).save(folder / name)
    return keyframed_boxes([frame.object_HW[::2, ::2] for frame in ball])


def write_networks(folder: Path) -> None:
    """Write untrained weights of ultralytics' architectures unless FOLDER has weights; the pose model finds faces."""
    wanted = [kind for kind in ("depth", "pose") if not (folder / f"yolo26n-{kind}.pt").exists()]
    if wanted:
        from vace_batch.masks.detectors.yolo import import_ultralytics

        import_ultralytics()
        import torch
        from ultralytics import YOLO
        from ultralytics.nn.tasks import PoseModel

        torch.manual_seed(0)
        for kind in wanted:
            network = YOLO(f"yolo26n-{kind}.yaml")
            if kind == "pose":
                network.model = PoseModel("yolo26n-pose.yaml", data_kpt_shape=(WHOLE_BODY, 3), verbose=False)
                network.model.task = "pose"
            network.save(str(folder / f"yolo26n-{kind}.pt"))


if __name__ == "__main__":
    typer.run(main)
