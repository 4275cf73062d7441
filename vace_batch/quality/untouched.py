"""Measure PSNR and VMAF of the untouched picture: the pixels of the output outside all masks, beside the source's.

The touched pixels of the output are replaced by the source's, so both numbers tell of the rest alone: of the encoder.
VMAF is Netflix's perceptual score, 0..100 (https://github.com/Netflix/vmaf), here of brightness. Its program is an
`ffmpeg` with libvmaf, which the package imageio-ffmpeg brings (GPLv3, called as a program), or that of PATH.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vace_batch import log
from vace_batch.quality.compare import Comparison

GrayImage = npt.NDArray[np.uint8]

RUNS = 4
"""Runs of frames that are compared, evenly spread over the clip."""

RUN_FRAMES = 12

MOST_PX = 1920
"""Side of the middle part of a larger picture that is compared."""

_MOST_DB = 99.0
_TIME_LIMIT_S = 300
_LOG = log.get_logger(__name__)


def measure_untouched(comparison: Comparison, *, vmaf: bool) -> dict[str, float]:
    """Measure `psnr_untouched` in dB and, with `vmaf`, `vmaf_untouched` and `vmaf_untouched_min` over the frames.

    Brightness alone is compared. Without a program for VMAF, or where it fails, the metric is left out and a warning
    says why.

    Raises:
        ClipError: a file cannot be read, or has fewer frames.
    """
    squares, count = 0.0, 0
    with tempfile.TemporaryDirectory(prefix="vace-batch-") as folder:
        paths = Path(folder) / "source.gray", Path(folder) / "output.gray"
        shape = (0, 0)
        with paths[0].open("wb") as reference, paths[1].open("wb") as distorted:
            for source, output, kept in _frames(comparison):
                difference = source[kept].astype(np.float64) - output[kept]
                squares, count = squares + float((difference**2).sum()), count + int(kept.sum())
                shape = source.shape[0], source.shape[1]
                if vmaf:
                    reference.write(source.tobytes())
                    distorted.write(np.where(kept, output, source).tobytes())
        if not count:
            return {}
        error = squares / count
        psnr_db = min(_MOST_DB, 10 * float(np.log10(255**2 / error))) if error else _MOST_DB
        return {"psnr_untouched": round(psnr_db, 2)} | (_vmaf(paths, shape) if vmaf else {})


def _frames(comparison: Comparison) -> Iterator[tuple[GrayImage, GrayImage, npt.NDArray[np.bool_]]]:
    """Read the frames of some runs: brightness of source and output, and the untouched pixels, (H, W) each."""
    place = comparison.canvas.source
    last = max(0, comparison.num_frames - RUN_FRAMES)
    stop = 0
    for start in np.linspace(0, last, RUNS).astype(int).tolist():
        run = range(max(start, stop), min(start + RUN_FRAMES, comparison.num_frames))
        stop = run.stop
        for pair in comparison.pairs(run):
            if pair.source is not None:
                kept = ~comparison.touched_bits(pair.index)
                yield _bounded(pair.source.gray()), _bounded(pair.output.gray()[place.slices]), _bounded(kept)


def _bounded(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Take the middle of a picture of more than MOST_PX a side: the frames of a large picture fill a disk."""
    rows, columns = (max(0, side - MOST_PX) // 2 for side in image.shape[:2])
    return image[rows : rows + MOST_PX, columns : columns + MOST_PX]


def find_program() -> str | None:
    """Find an ffmpeg with libvmaf: the one of imageio-ffmpeg, else the one of PATH; None without one."""
    try:
        packaged: str | None = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError, OSError):
        packaged = None
    candidates = (each for each in (packaged, shutil.which("ffmpeg")) if each)
    return next((each for each in candidates if "libvmaf" in _run([each, "-hide_banner", "-filters"])), None)


def _vmaf(paths: tuple[Path, Path], shape: tuple[int, int]) -> dict[str, float]:
    """Score two files of raw brightness, reference first, of frames (H, W)."""
    program = find_program()
    if program is None:
        _LOG.warning("VMAF is not measured: no ffmpeg with libvmaf (pip install imageio-ffmpeg)")
        return {}
    report = paths[0].with_name("vmaf.json")
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{shape[1]}x{shape[0]}", "-r", "25"]
    graph = f"[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];[a][b]libvmaf=log_fmt=json:log_path={report}"
    inputs = [*raw, "-i", str(paths[1]), *raw, "-i", str(paths[0])]
    said = _run([program, "-hide_banner", "-nostdin", *inputs, "-lavfi", graph, "-f", "null", "-"])
    try:
        score: dict[str, Any] = json.loads(report.read_text("utf-8"))["pooled_metrics"]["vmaf"]
        return {"vmaf_untouched": round(score["mean"], 2), "vmaf_untouched_min": round(score["min"], 2)}
    except (OSError, ValueError, KeyError, TypeError):
        _LOG.warning("VMAF could not be measured: %s", said.strip().splitlines()[-1:] or "the program said nothing")
        return {}


def _run(command: list[str]) -> str:
    """Run a program and return all that it writes; the text of its failure where it cannot be run."""
    try:
        ran = subprocess.run(command, capture_output=True, timeout=_TIME_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (ran.stdout + ran.stderr).decode("utf-8", "replace")
