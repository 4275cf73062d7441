"""PSNR and VMAF of the pixels that a job was not to touch."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.fills import NUM_FRAMES, SIZE, pictures
from vace_batch.geometry import Box
from vace_batch.ledger.verdicts import with_verdict
from vace_batch.options import Options, QualitySettings, Threshold
from vace_batch.quality import untouched
from vace_batch.quality.compare import Comparison
from vace_batch.quality.untouched import find_program, measure_untouched
from vace_batch.steps.select_best import attempts_key
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.reader import packet_times
from vace_batch.video.writer import write_clip

WHOLE = Box(0, 0, SIZE.width, SIZE.height)


def comparison(folder: Path, change: Any) -> Comparison:
    """Write a source and an output without loss; `change` makes the output's frames (H, W, 3) of the source's."""
    sources = [np.clip(pictures(index)[0], 0, 255).astype(np.uint8) for index in range(NUM_FRAMES)]
    outputs = [np.clip(change(index, frame), 0, 255).astype(np.uint8) for index, frame in enumerate(sources)]
    for name, frames in (("source", sources), ("output", outputs)):
        write_clip(folder / f"{name}.mp4", frames, rate=Fraction(25), crf=0)
    paths = [str(folder / f"{name}.mp4") for name in ("source", "output")]
    return Comparison(
        source=paths[0],
        output=paths[1],
        source_pts=packet_times(paths[0]),
        output_pts=packet_times(paths[1]),
        canvas=Canvas(size=SIZE, source=WHOLE, kept=WHOLE),
        num_frames=NUM_FRAMES,
        masks=lambda start, stop: {index: pictures(index)[2] for index in range(start, stop)},
        touched=(),
    )


def painted(index: int, frame: Any) -> Any:
    return np.where(pictures(index)[2].full(SIZE)[..., None], 128, frame)


def noisy(index: int, frame: Any) -> Any:
    return frame.astype(float) + np.random.default_rng(index).normal(0, 4, frame.shape[:2])[..., None]


def test_the_changes_under_the_masks_do_not_count(tmp_path: Path) -> None:
    assert measure_untouched(comparison(tmp_path, painted), vmaf=False) == {"psnr_untouched": 99.0}


def test_noise_has_the_psnr_of_its_size(tmp_path: Path) -> None:
    expected = 10 * np.log10(255**2 / 4**2)
    measured = measure_untouched(comparison(tmp_path, noisy), vmaf=False)
    assert measured == {"psnr_untouched": pytest.approx(expected, abs=0.7)}


def stand_in(folder: Path, body: str) -> str:
    """Write a program that stands in for ffmpeg; it finds the report's path as libvmaf does."""
    path = folder / "ffmpeg"
    path.write_text(
        f"#!{sys.executable}\nimport json, re, sys\nif '-filters' in sys.argv:\n    print('libvmaf')\n    sys.exit()\n"
        f"report = re.search('log_path=(.*)', ' '.join(sys.argv)).group(1).split()[0]\n{body}\n"
    )
    path.chmod(0o755)
    return str(path)


def test_the_program_s_report_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = json.dumps({"pooled_metrics": {"vmaf": {"mean": 97.4567, "min": 91.2}}})
    program = stand_in(tmp_path, f"open(report, 'w').write({scores!r})")
    monkeypatch.setattr(untouched, "find_program", lambda: program)
    measured = measure_untouched(comparison(tmp_path, painted), vmaf=True)
    assert measured == {"psnr_untouched": 99.0, "vmaf_untouched": 97.46, "vmaf_untouched_min": 91.2}


@pytest.mark.parametrize("body", ["sys.exit('no model')", "open(report, 'w').write('{}')"], ids=["fails", "no score"])
def test_a_program_that_fails_fails_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = stand_in(tmp_path, body)
    monkeypatch.setattr(untouched, "find_program", lambda: program)
    assert measure_untouched(comparison(tmp_path, painted), vmaf=True) == {"psnr_untouched": 99.0}


def test_a_program_without_vmaf_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untouched.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\necho libx264\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert find_program() is None
    program = stand_in(tmp_path, "")
    assert find_program() == program


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="imageio-ffmpeg is not installed")
def test_the_real_program_scores_noise_below_an_equal_picture(tmp_path: Path) -> None:
    equal = measure_untouched(comparison(tmp_path, painted), vmaf=True)
    noise = measure_untouched(comparison(tmp_path, noisy), vmaf=True)
    assert equal["vmaf_untouched"] > 97 > noise["vmaf_untouched"] > 20


def test_the_option_changes_neither_attempts_nor_thresholds() -> None:
    plain, asked = Options(), Options(quality=QualitySettings(untouched="vmaf"))
    assert attempts_key("clip-1", plain) == attempts_key("clip-1", asked)
    record: Any = {"metrics": {"vmaf_untouched": 50.0}, "checks": ["gray"], "broken": []}
    assert with_verdict(record, plain.quality)["thresholds"] == with_verdict(record, asked.quality)["thresholds"]
    assert with_verdict(record, asked.quality)["verdict"] == "pass"
    other = Options(quality=QualitySettings(gray=Threshold(review=0.5)))
    assert attempts_key("clip-1", plain) != attempts_key("clip-1", other)


def test_short_clips_count_each_frame_once_and_large_pictures_their_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untouched, "MOST_PX", 64)
    frames = list(untouched._frames(comparison(tmp_path, painted)))
    assert len(frames) == NUM_FRAMES and {image.shape for each in frames for image in each} == {(64, 64)}
