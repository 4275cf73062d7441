"""Test the calibration with the run's own steps and a small real model, and predictions from its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from vace_batch.batch import calibrate, doctor
from vace_batch.cli.parsing import read_calibration
from vace_batch.geometry import Size


def test_a_machine_is_measured_by_the_run_s_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "_SIZES", (Size(96, 64), Size(160, 96)))
    monkeypatch.setattr(calibrate, "_FRAMES", 9)
    monkeypatch.setattr(calibrate, "_SHAPES", ((5, Size(32, 32), 1), (9, Size(64, 64), 1), (9, Size(64, 64), 3)))
    monkeypatch.setattr(doctor, "_TRIAL_SIDE", 32)
    path = str(tmp_path / "calibration.json")
    checks = {check.name: check for check in doctor.examine("tiny", None, path)}
    assert checks["calibration"].ok, checks["calibration"].found
    found = read_calibration(path)
    for name in ("scan", "look", "build", "stitch", "quality"):
        assert 0 < getattr(found.cpu, name).seconds(1, 0.01) < 5, name
    assert all(value > 0 for value in found.bytes.model_dump().values())
    speed = found.speed("tiny")
    assert 0 < speed.seconds(1e10, 1e10) < 60 and list(found.models) == ["tiny"]
    assert "no GPU" in found.machine or "cores" in found.machine


def test_a_rate_is_what_fits_two_sizes() -> None:
    small, large = (size.width * size.height / 1e6 for size in calibrate._SIZES)
    rate = calibrate._rate([0.01 + 0.2 * small, 0.01 + 0.2 * large])
    assert rate.frame == pytest.approx(0.01, abs=1e-5) and rate.mpx == pytest.approx(0.2, abs=1e-4)
    assert calibrate._rate([0.3, 0.1]).mpx == 0  # never below nothing
