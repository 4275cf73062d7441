"""Compare the whole mask stage with ultralytics' predict loop in torch and with the bare model, on one clip.

    OMP_NUM_THREADS=1 python benchmarks/masks.py [--weights FILE.pt] [--frames 72] [--rounds 5]

Stage: decode, detect, track, fill, refine and write the mask file; with every frame looked at, and as a run does it.
Peer: `YOLO(weights).predict(clip, stream=True)`. Bare: only the forward of the exported model, on a picture in memory.
Numbers are processor time, so that other work on the machine matters less; all are taken in turn, round after round,
and the medians told, of the ratios too. Without `--weights` it is yolo11n-seg with random weights, which finds nothing:
what is compared then is decoding, scaling, the network and its decoding.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vace_batch.demo.clips import picture
from vace_batch.geometry import TOKEN_PX, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.detectors import backends
from vace_batch.masks.detectors.onnx_export import cached_export
from vace_batch.masks.detectors.yolo import import_ultralytics
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector
from vace_batch.masks.models import DEFAULT_EVERY, MaskModels
from vace_batch.masks.store import write_masks
from vace_batch.video.shots import Scan
from vace_batch.video.writer import write_clip

SIZE = Size(1920, 1080)


def clip(num_frames: int) -> Iterator[np.ndarray]:
    """A moon that drifts over a picture which is panned slowly."""
    source, moon = picture("coffee.png"), picture("moon.png")
    disc = cv2.resize(moon[70:350, 130:410], (280, 280))
    rows, columns = np.mgrid[:280, :280]
    inside = np.hypot(rows - 139.5, columns - 139.5) < 125
    for index in range(num_frames):
        matrix = np.array([[4.0, 0, -160 - 2 * index], [0, 4.0, -200]], np.float32)
        view = cv2.warpAffine(source, matrix, (SIZE.width, SIZE.height), borderMode=cv2.BORDER_REFLECT)
        x, y = 100 + 14 * index, 500 - 3 * index
        view[y : y + 280, x : x + 280][inside] = disc[inside]
        yield view.astype(np.uint8)


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of `work`."""
    started = time.process_time()
    work()
    return time.process_time() - started


def random_weights(folder: str) -> str:
    """Write the smallest YOLO11-seg with the random weights of its configuration."""
    import_ultralytics()
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    path = str(Path(folder, "yolo11n-seg-random.pt"))
    YOLO("yolo11n-seg.yaml").save(path)
    return path


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="detection or segmentation weights, .pt")
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import_ultralytics()
    import torch
    from ultralytics import YOLO

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path, num_frames = str(Path(folder, "clip.mp4")), arguments.frames
        write_clip(path, clip(num_frames), rate=Fraction(25), tone_hz=None)
        weights = arguments.weights or random_weights(folder)
        model_file = cached_export(weights, folder)
        detector = ExportedDetector.load(model_file)
        box = detector.letterbox(SIZE)
        names = tuple(detector.classes.values())
        job = Job(job_id="bench", video_uri="-", task="removal", targets=names)
        found: dict[int, int] = {}

        def stage(every: int) -> None:
            models = MaskModels(detector=model_file, every=every)
            request = MaskRequest(
                job=job,
                path=path,
                size=SIZE,
                scan=Scan(num_frames=num_frames, pts=(), cuts=()),
                frame_range=(0, num_frames),
                models=models,
                min_px=TOKEN_PX,
            )
            summary = write_masks(str(Path(folder, "masks.parquet")), SIZE, clip_masks(request))
            found[every] = len(summary.boxes)

        def peer() -> None:
            model = YOLO(weights)
            for result in model.predict(path, stream=True, device="cpu", verbose=False, imgsz=detector.side):
                if result.masks is not None:
                    result.masks.data.numpy()

        blank = np.zeros((box.network.height, box.network.width, 3), np.uint8)
        numbers = detector.check_targets(names)
        detector.detect_small(blank, box, numbers, conf=0.99)
        stage(1)  # loads and compiles
        image = np.zeros((1, 3, box.network.height, box.network.width), np.float32)
        run = detector.session(box.network)
        works = {
            "ultralytics predict, torch": peer,
            f"bare forward, {backends.backend()}": lambda: [run(image) for _ in range(num_frames)],
            "whole stage, every frame": lambda: stage(1),
            f"whole stage, up to every {DEFAULT_EVERY}th": lambda: stage(DEFAULT_EVERY),
        }
        taken = np.array([[seconds(work) for work in works.values()] for _ in range(arguments.rounds)])
        print(f"{found} masked, by how often it was looked; load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores\n")
        print("| | ms a frame | frames a core-second | against predict | against bare |\n|---|---|---|---|---|")
        for column, name in enumerate(works):
            spent = np.median(taken[:, column]) / num_frames
            faster, slower = taken[:, 0] / taken[:, column], taken[:, column] / taken[:, 1]
            ratios = " | ".join(
                f"{np.median(ratio):.2f}x ({ratio.min():.2f}-{ratio.max():.2f})" for ratio in (faster, slower)
            )
            print(f"| {name} | {spent * 1000:.1f} | {1 / spent:.1f} | {ratios} |")


if __name__ == "__main__":
    main()
