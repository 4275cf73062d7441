"""The doctor's trial of a model: real loading, a real window, and advice that follows the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vace_batch.batch import doctor
from vace_batch.geometry import Size
from vace_batch.vace import profiles

H100 = doctor.Trial(
    revision="r",
    device="NVIDIA H100",
    dtype="bfloat16",
    size=Size(128, 128),
    load_s=60.0,
    window_s=1.0,
    loaded_gib=4.0,
    peak_gib=5.0,
    total_gib=80.0,
)


def test_the_embedded_model_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TRIAL_SIDE", 32)
    monkeypatch.setattr(doctor, "_TRIAL_FRAMES", 5)
    checks = {check.name: check for check in doctor.examine("tiny", None)}
    assert all(checks[name].ok for name in ("model", "window", "projection"))
    trial, speed = checks["model"].details, checks["window"].details
    assert trial["revision"] == profiles.revision("tiny") and 0 < trial["loaded_gib"] <= trial["peak_gib"]
    assert speed["tflops"] == pytest.approx(speed["tflop"] / trial["window_s"])
    projected = checks["projection"].details
    assert list(projected) == ["256x256", "384x384", "512x512"]  # what the model takes
    expected = profiles.profile("tiny").window_flop(
        33, Size(512, 512), profiles.profile("tiny").sampling("removal"), guided=False
    )
    assert projected["512x512"] == pytest.approx(expected / speed["tflops"] / 1e12)


def test_a_model_that_cannot_be_loaded_is_a_fault(tmp_path: Path) -> None:
    (check,) = doctor._model(str(tmp_path))
    assert not check.ok and "model_index.json is missing" in check.result


def advice(trial: doctor.Trial, tflops: float) -> str:
    profile = profiles.profile(profiles.VACE_1_3B)
    return " | ".join(doctor._advice(profile, trial, dict(doctor._projected(profile, tflops))))


def test_advice_follows_the_numbers() -> None:
    assert advice(H100, 400.0) == ""
    assert "machine with a GPU" in advice(replace(H100, device="CPU, 1 threads"), 0.1)
    assert "keep weights as fp8" in advice(replace(H100, peak_gib=75.0), 400.0)
    assert "bfloat16" in advice(replace(H100, dtype="float32"), 400.0)
    assert "few-step LoRA" in advice(H100, 5.0) and "machine with a GPU" not in advice(H100, 5.0)
