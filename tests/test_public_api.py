"""The names and signatures that programs may rely on, and a manifest that is run with them and nothing else."""

from __future__ import annotations

import inspect
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vace_batch
from vace_batch.video.writer import write_clip

SIGNATURES = {
    "plan": "manifest: 'ManifestSource', options: 'Options | None', *, out: 'str | None', look: 'int' -> 'Estimate'",
    "read_manifest": "uri: 'str | os.PathLike[str]' -> 'Manifest'",
    "run": "manifest: 'ManifestSource', out: 'str', options: 'Options | None', *, show: 'Show', "
    "should_stop: 'Callable[[], bool]', on_planned: 'Callable[[Batch], None]', verify: 'bool' -> 'Summary'",
}


def described(name: str) -> str:
    signature = inspect.signature(getattr(vace_batch, name))
    without_defaults = [each.replace(default=inspect.Parameter.empty) for each in signature.parameters.values()]
    text = str(signature.replace(parameters=without_defaults))
    return text.removeprefix("(").replace(") ->", " ->")


def test_the_public_names_are_these() -> None:
    assert vace_batch.__all__ == ["Options", "plan", "read_manifest", "run"]
    assert set(vace_batch.__all__) | {"__version__"} <= set(dir(vace_batch))
    with pytest.raises(AttributeError, match="no attribute 'estimate'"):
        vace_batch.estimate  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signatures_are_these(name: str) -> None:
    assert described(name) == SIGNATURES[name]
    parameters = inspect.signature(getattr(vace_batch, name)).parameters
    required = [each.name for each in parameters.values() if each.default is inspect.Parameter.empty]
    assert required == {"plan": ["manifest"], "read_manifest": ["uri"], "run": ["manifest", "out"]}[name]


PROGRAM = """
import os, sys
from vace_batch import Options, plan, read_manifest, run

assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0", "no telemetry from Python either"
folder = sys.argv[1]
manifest = read_manifest(f"{folder}/manifest.parquet")
options = Options(cpu_actors=1, gpu_actors=1)
estimate = plan(manifest, options)
assert [clip.state for clip in estimate.clips] == ["todo", "failed"] and estimate.used.gpu_s > 0
planned, shown = [], []
summary = run(manifest, f"{folder}/out", options, show=shown.append, on_planned=planned.append)
assert (summary.planned, summary.done, summary.failed) == (2, 1, 1), str(summary)
assert len(planned[0].pending) == 2 and shown[-1].clips_finished == 2
again = run(f"{folder}/manifest.parquet", f"{folder}/out", options, should_stop=lambda: True, on_planned=planned.append)
assert (again.done, again.failed) == (1, 1) and not planned[1].pending
assert [clip.state for clip in plan(manifest, options, out=f"{folder}/out").clips] == ["done", "failed"]
print("ran")
"""


def test_a_manifest_is_planned_and_run_from_python(tmp_path: Path) -> None:
    frames = np.full((5, 64, 96, 3), 60, np.uint8)
    write_clip(str(tmp_path / "a.mp4"), frames, rate=Fraction(25))
    box = {"x": 20.0, "y": 20.0, "width": 20.0, "height": 20.0}
    rows = [
        {"job_id": name, "video_uri": f"{name}.mp4", "task": "removal", "boxes": [box], "background": "off"}
        for name in ("a", "missing")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "manifest.parquet")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.endswith("ran\n"), done.stderr[-3000:]
