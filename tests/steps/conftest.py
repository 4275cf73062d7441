"""Clips for the tests of steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bad_media import good_video
from tests.support.prepared_clips import Prepare, Windows, preparer
from vace_batch.steps import build as build_step
from vace_batch.vcu.unit import VCU


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return good_video(tmp_path_factory.mktemp("good"))


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    return preparer(tmp_path)


@pytest.fixture
def windows(prepared: Prepare) -> Windows:
    def build(task: str, **fields: object) -> list[VCU]:
        work, plan = prepared(task, **fields)
        return [build_step.build(work, plan, planned) for planned in plan.windows]

    return build
