"""A wait is told again and again until it ends, and never if it is short."""

from __future__ import annotations

import logging
import time

import pytest

from vace_batch.cluster.waiting import waiting_for


def test_a_long_wait_is_told_repeatedly(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("vace_batch"), "propagate", True)
    with waiting_for("the kettle", every_s=0.05):
        time.sleep(0.5)
    assert len(caplog.records) >= 2 and "waiting for the kettle, for 0 s now" in caplog.text
    caplog.clear()
    with waiting_for("the kettle", every_s=0.2):
        pass
    time.sleep(0.4)
    assert not caplog.records
