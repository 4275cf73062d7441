"""Measure error rates of the quality checks on a set of good and deliberately bad outputs with a known truth.

    python -m benchmarks.quality [DATA] [--ours FOLDER] [--jobs 2] [--fit CHECK] [--list] [--json FILE] [--few N]
    python -m benchmarks.quality [DATA] --sheet PNG [--only NAME,...]

DATA has `cases/` (case.json, input.*, gt.*, mask.mkv each) and `real/` (films); without DATA the drawn scenes are used
alone. Every scene is encoded as source and as several outputs (`quality_outputs.py`), which are measured as a finished
clip is. FOLDER has what a run made of the cases, as <case>.mp4: these are measured as they are. No scene is on both
sides: thresholds may be chosen on the fit half, and error rates are those of the unseen half.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from benchmarks.quality_outputs import Output, outputs
from benchmarks.quality_plan import CASES, SPECS, Half
from benchmarks.quality_scenes import RgbImage, Scene, cases_folder, scenes
from benchmarks.quality_tables import CHECKS, Row, alarms, check_table, defect_table, fitted, kind_table
from vace_batch.background.clip import HALO_PX
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import FILE_DILATION
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.refine import dilate
from vace_batch.masks.store import FrameMask
from vace_batch.options import QualitySettings
from vace_batch.quality.compare import Comparison
from vace_batch.quality.meter import Meter
from vace_batch.quality.missed import count_missed
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.probe import probe
from vace_batch.video.reader import packet_times, read_frames
from vace_batch.video.writer import write_clip

_CRFS = (20, 20, 20, 20, 20, 20, 20, 28, 28, 0)
_RATE = Fraction(25)


def metrics_of(source: str, output: str, masks: Mapping[int, FrameMask], cuts: Sequence[int]) -> dict[str, float]:
    """Measure the metrics of the checks on one output, as a run does with a finished clip."""
    info = probe(source)
    times = packet_times(source)
    whole = Box(0, 0, info.size.width, info.size.height)
    comparison = Comparison(
        source=source,
        output=output,
        source_pts=times,
        output_pts=packet_times(output),
        canvas=Canvas(size=info.size, source=whole, kept=whole),
        num_frames=len(times),
        masks=lambda start, stop: {index: masks[index] for index in range(start, stop) if index in masks},
        touched=(),
    )
    meter = Meter(cuts, ())
    comparison.compare(sorted(masks), meter)
    return meter.metrics() | count_missed(comparison, sorted(masks), range(len(times)), tuple(cuts))


def measure_scene(name: str, data: Path | None, few: int) -> list[Row]:
    """Make, encode and measure the outputs of one scene."""
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source, written = str(Path(folder) / "source.mp4"), str(Path(folder) / "output.mp4")
        for scene in scenes(data, (name,)):
            encoded: Scene | None = None
            decoded: list[RgbImage] = []
            for output in outputs(scene, few):
                if encoded is not output.scene:
                    write_clip(source, output.scene.source, rate=_RATE, crf=_crf(name))
                    decoded = [frame.rgb() for frame in read_frames(source)]
                    encoded = output.scene
                frames = as_decoded(output, decoded)
                write_clip(written, frames, rate=_RATE, crf=_crf(f"{name} {output.name}"))
                rows.append(_row(output, metrics_of(source, written, output.masks, scene.cuts)))
    return rows


def as_decoded(output: Output, decoded: Sequence[RgbImage]) -> Iterator[RgbImage]:
    """Take the pixels that an output leaves as they were from the decoded source: a run never sees another one.

    Pixels within `HALO_PX` of the mask stay: a run removes the codec's traces of the object there.
    """
    for index, (frame, source, seen) in enumerate(zip(output.frames, output.scene.source, decoded, strict=True)):
        kept = (frame == source).all(axis=2)
        if index in output.masks:
            halo = np.ones((2 * HALO_PX + 1,) * 2, np.uint8)
            kept &= cv2.dilate(output.masks[index].full(output.scene.size).astype(np.uint8), halo) == 0
        yield np.where(kept[..., None], seen, frame)


def _crf(name: str) -> int:
    """Choose the encoder's quality: 20 mostly, 28 for a fifth, lossless for a tenth."""
    return _CRFS[zlib.crc32(name.encode()) % len(_CRFS)]


def _row(output: Output, metrics: Mapping[str, float]) -> Row:
    return Row(
        scene=output.scene.name,
        half=output.scene.half,
        kind=output.scene.kind,
        output=output.name,
        side=output.side,
        group=output.group,
        strength=output.strength,
        label=output.label,
        numbers={name: round(value, 3) for name, value in asdict(output.measured).items()},
        metrics=metrics,
    )


def measure_all(names: Sequence[str], data: Path | None, few: int, jobs: int) -> Iterator[Row]:
    """Yield the rows of the scenes, in order."""
    measure = partial(measure_scene, data=data, few=few)
    if jobs == 1:
        for name in names:
            yield from measure(name)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for rows in pool.map(measure, names):
            yield from rows


def measure_ours(data: Path, ours: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield case and metrics of the outputs that a run made of the cases."""
    for folder in sorted(path.parent for path in cases_folder(data).glob("*/case.json")):
        case = json.loads((folder / "case.json").read_text())
        size = Size(case["width"], case["height"])
        name = "mask_full.mkv" if (folder / "mask_full.mkv").exists() else "mask.mkv"
        given = read_masks(str(folder / name), size, case["n_frames"])
        masks = {mask.index: dilate(mask, size, FILE_DILATION) for mask in given}
        for output in ours.glob(f"{folder.name}.*"):
            yield folder.name, metrics_of(str(next(folder.glob("input.*"))), str(output), masks, case["cuts"])


def sheet(path: Path, data: Path | None, names: Sequence[str], few: int) -> None:
    """Draw a contact sheet, a line per output: source, truth, output and mask of the middle of the masked frames."""
    lines = []
    for scene in scenes(data, names):
        for output in outputs(scene, few):
            shown = sorted(output.masks)
            index = shown[len(shown) // 2]
            source, truth, made = (each[index] for each in (output.scene.source, output.scene.truth, output.frames))
            mask = np.repeat(output.masks[index].full(scene.size)[..., None] * np.uint8(255), 3, axis=2)
            tiles = [
                np.asarray(cv2.resize(tile, (240, 150), interpolation=cv2.INTER_AREA))
                for tile in (source, truth, made, mask)
            ]
            line = np.vstack([np.zeros((14, 960, 3), np.uint8), np.hstack(tiles)])
            title = f"{scene.name} | {output.name} | {output.label} | {output.measured.psnr_db:.0f} dB"
            cv2.putText(line, title, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1)
            lines.append(line)
    if not cv2.imwrite(str(path), np.vstack(lines)[..., ::-1]):
        raise OSError(f"{path}: cannot be written")


def report(rows: Sequence[Row], settings: QualitySettings) -> Iterator[str]:
    """Yield the tables of both halves, the unseen one first."""
    halves: tuple[Half, Half] = ("unseen", "fit")
    for half in halves:
        mine = [row for row in rows if row.half == half]
        if not mine:
            continue
        yield f"\n## The {half} half: {len({row.scene for row in mine})} scenes, {len(mine)} outputs\n"
        yield from check_table(mine, settings)
        yield ""
        yield from defect_table(mine, settings)
        yield ""
        yield from kind_table(mine, settings)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--ours", type=Path, help="what a run made of the cases, by name")
    parser.add_argument("--only", help="names of scenes, or parts of names, with semicolons between")
    parser.add_argument("--few", type=int, default=1, help="only the first of every so many outputs of a scene")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--fit", choices=CHECKS, help="the threshold that the fit half alone would choose")
    parser.add_argument("--list", action="store_true", help="print every row")
    parser.add_argument("--json", type=Path, help="write every row to this file")
    parser.add_argument("--sheet", type=Path, help="draw the outputs for the eye, and measure nothing")
    arguments = parser.parse_args()
    started, settings = time.monotonic(), QualitySettings()
    every = [spec.name for spec in SPECS if arguments.data or not spec.needs_data]
    every += [*CASES] if arguments.data else []
    parts = arguments.only.split(";") if arguments.only else [""]
    names = [name for name in every if any(part in name for part in parts)]
    if arguments.sheet:
        sheet(arguments.sheet, arguments.data, names, arguments.few)
        return
    rows = []
    for row in measure_all(names, arguments.data, arguments.few, arguments.jobs):
        rows.append(row)
        if arguments.list:
            numbers = " ".join(f"{name}={value:.3f}" for name, value in row.metrics.items())
            print(f"{row.scene} | {row.half} | {row.output} | {row.label} | {numbers}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(*report(rows, settings), sep="\n")
    if arguments.fit:
        print("\n" + fitted(rows, arguments.fit))
    if arguments.ours and arguments.data:
        for case, metrics in measure_ours(arguments.data, arguments.ours):
            row = _ours_row(case, metrics)
            print(f"ours, {case}: {', '.join(alarms(row, CHECKS, settings)) or 'pass'}")
    print(f"\n{len(names)} scenes, {len(rows)} outputs, {time.monotonic() - started:.0f} s")


def _ours_row(case: str, metrics: Mapping[str, float]) -> Row:
    return Row(
        scene=case,
        half=CASES[case],
        kind="ours",
        output="ours",
        side="good",
        group="ours",
        strength=1.0,
        label="none",
        numbers={},
        metrics=metrics,
    )


if __name__ == "__main__":
    main()
