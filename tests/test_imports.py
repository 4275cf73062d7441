"""Imports at the start of a process pause the collector of reference cycles, and only they do."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vace_batch.batch.workers import Engines
from vace_batch.cluster.worker import resolve
from vace_batch.imports import quick_imports
from vace_batch.options import EngineSettings


class Found(Exception):
    """The import of a module has begun, while the collector was on or off."""


class Finder:
    """Raises `Found` at the import of one module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
        if name == self.name:
            raise Found(gc.isenabled())


def test_the_collector_is_as_before_afterwards() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), quick_imports():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    with quick_imports(), quick_imports():
        pass
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_actor_imports_its_function_and_its_engine_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, begin in (
        ("vace_batch.vace.loading", lambda: Engines(EngineSettings(), None, {}).get("tiny", "revision")),
        ("quick_and_missing", lambda: resolve("quick_and_missing:function")),
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Finder(name), *sys.meta_path])
        with pytest.raises(Found, match="False"):
            begin()
        assert gc.isenabled()


@pytest.mark.parametrize("module", ["vace_batch.cli.app", "vace_batch.batch.driver"])
def test_the_command_line_imports_quickly(tmp_path: Path, module: str) -> None:
    script = f"""
import sys
from tests.test_imports import Finder, Found
import vace_batch.__main__ as entry
sys.meta_path.insert(0, Finder({module!r}))
sys.argv[1:] = ["run", {str(tmp_path / "m.parquet")!r}, "-o", "out"]
try:
    entry._run_command()
except Found as found:
    print(found)
"""
    row = {"job_id": "a", "video_uri": "a.mp4", "task": "removal", "targets": ["cat"]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout == "False\n", ran.stderr
