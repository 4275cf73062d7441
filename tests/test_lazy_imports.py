"""Imports inside functions: each is there for start-up time or for a package that only some jobs need."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HEAVY = {
    "torch": "a second and 200 MB in every process; masks from boxes and files, planning and drivers run without torch",
    "torchvision": "loads torch",
    "transformers": "seconds of start-up; an actor whose prompts are all stored needs no text encoder",
    "diffusers": "seconds of start-up; an actor whose prompts are all stored needs no pipeline",
    "ultralytics": "AGPL-3.0 and slow to import; only jobs with targets or points need ultralytics",
    "PIL": "imported with ultralytics, whose replacement of a function of PIL is undone",
    "onnxruntime": "only detectors in ONNX need onnxruntime",
    "openvino": "an extra: faster detection on CPUs with bfloat16",
    "rapidocr": "an extra: only the target @text needs rapidocr",
    "tokenizers": "only an exported open vocabulary needs tokenizers",
    "ray": "a second of start-up; counting GPUs of a machine without a cluster needs no Ray",
    "skimage": "only the target @face of reference pictures needs scikit-image's cascade",
    "aiohttp": "an extra: comes with the drivers of object stores",
    "aiobotocore": "an extra: the driver of s3://",
    "adlfs": "an extra: the driver of az://",
    "numpy": "imported beside torch in the same function",
}
"""Why each third-party package may be imported inside a function."""

STARTS_QUICKLY = {
    "vace_batch/__main__.py": "SIGTERM is caught before the command line is imported",
    "vace_batch/cli": "the command line answers --help and validate without OpenCV, PyAV, Ray and torch",
    "vace_batch/report/writer.py": "a report without previews loads neither OpenCV nor PyAV",
    "vace_batch/batch/workers.py": "a CPU actor loads no engine",
    "vace_batch/batch/doctor.py": "a machine without a working torch is reported, not a traceback",
    "vace_batch/batch/calibrate.py": "as the doctor, which calls the calibration",
    "vace_batch/cluster/machines.py": "loads Ray",
}
"""Why a module or room may import modules of the package inside a function."""


def lazy_imports() -> Iterator[tuple[str, str]]:
    """Yield the file and the imported module of each import that stands inside a function."""
    for path in sorted((ROOT / "vace_batch").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module:
                    yield name, node.module
                elif isinstance(node, ast.Import):
                    yield from ((name, alias.name) for alias in node.names)


def test_each_import_inside_a_function_has_a_reason() -> None:
    without = [
        f"{file} imports {module}"
        for file, module in lazy_imports()
        if module.split(".")[0] not in HEAVY
        and not (module.startswith("vace_batch.") and any(file.startswith(place) for place in STARTS_QUICKLY))
    ]
    assert without == [], "import at the top of the module, or add the reason"


@pytest.mark.parametrize("reasons", [HEAVY, STARTS_QUICKLY])
def test_each_reason_is_still_needed(reasons: dict[str, str]) -> None:
    pairs = list(lazy_imports())
    unused = [
        name
        for name in reasons
        if not any(file.startswith(name) or module.split(".")[0] == name for file, module in pairs)
    ]
    assert unused == []
