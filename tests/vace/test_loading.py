"""The modules that importing the engine must not load in a GPU actor."""

from __future__ import annotations

import subprocess
import sys

import pytest

NOT_FOR_THE_ENGINE = {
    "ray", "prefect", "ultralytics", "cv2", "av", "decord", "scenedetect", "onnxruntime", "openvino", "pyarrow",
    "diffusers.pipelines.wan.pipeline_wan_vace", "transformers.models.umt5.modeling_umt5",
    "vace_batch.vace.convert", "vace_batch.vace.training",
}  # fmt: skip
"""The text encoder and the pipelines come with the first prompt that is not stored."""

NOT_FOR_PLANNING = {"torch", "torchvision", "diffusers", "transformers", "ray", "ultralytics"}


def loaded_by(modules: str) -> set[str]:
    code = f"import sys, {modules}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_opening_an_engine_imports_only_what_every_window_needs() -> None:
    assert loaded_by("vace_batch.vace.loading") & NOT_FOR_THE_ENGINE == set()


@pytest.mark.parametrize("room", ["vace_batch.vace", "vace_batch.vcu"])
def test_planning_modules_import_no_torch(room: str) -> None:
    names = {
        "vace_batch.vace": ("profiles", "weights", "loras", "sizing"),
        "vace_batch.vcu": ("unit", "sampling", "conditions", "tasks", "references", "frames"),
    }[room]
    assert loaded_by(", ".join(f"{room}.{name}" for name in names)) & NOT_FOR_PLANNING == set()
