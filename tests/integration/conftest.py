from __future__ import annotations

import os
from functools import partial

import pytest

from tests.support.command_line import ROOT, RUN_WITH_STAND_IN, Call, call


@pytest.fixture
def quick_call(shared_ray: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call` on the tests' shared Ray and with the engine's stand-in: for what depends on neither."""
    for name, value in shared_ray.items():
        monkeypatch.setenv(name, value)
    return partial(call, program=RUN_WITH_STAND_IN)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
