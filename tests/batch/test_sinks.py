"""Event sinks: progress is counted from events, and every sink receives every event and is closed."""

from __future__ import annotations

import logging

import pytest

from vace_batch.batch.budget import Budget
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.progress import Progress
from vace_batch.batch.sinks import ActorWarnings, ProgressCounter, Sinks
from vace_batch.cluster.events import ActorDied, ActorReady, ActorWaiting, Event, UnitDone, UnitFailed
from vace_batch.cluster.units import Failure, Unit

WINDOW = Unit(kind="generate", key="a", pool="gpu", fn="a:b")
DEATH = ActorDied(pool="gpu", actor_id=1, cause="memory", detail="killed", unit_ids=())


class Kept:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def add(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True


def test_every_sink_receives_every_event_and_is_closed() -> None:
    first, second = Kept(), Kept()
    sinks = Sinks([first, second])
    sinks.add(DEATH)
    sinks.close()
    assert first.events == second.events == [DEATH]
    assert first.closed and second.closed


def test_sinks_that_are_forgotten_receive_nothing_and_are_not_closed() -> None:
    kept = Kept()
    sinks = Sinks([kept])
    sinks.forget()
    sinks.add(DEATH)
    sinks.close()
    assert not kept.events and not kept.closed


def test_progress_counts_windows_frames_and_first_times() -> None:
    graph = ClipGraph([])
    graph.frames[WINDOW.key] = 33
    shown: list[Progress] = []
    counter = ProgressCounter(graph, Budget(), shown.append)
    failure = Failure(unit_id=WINDOW.unit_id, code="timeout", reason="", retryable=True, attempts=3)
    counter.add(ActorReady(pool="cpu", actor_id=1, seconds=1.0))
    counter.add(UnitFailed(unit=WINDOW, failure=failure, seconds=1.0))
    assert (shown[-1].windows_done, shown[-1].firsts) == (0, ("masks",))
    counter.add(ActorReady(pool="gpu", actor_id=2, seconds=1.0))
    counter.add(UnitDone(unit=WINDOW, meta=2.0, seconds=3.0))
    assert (shown[-1].windows, shown[-1].windows_done, shown[-1].frames_done) == (1, 1, 33)
    assert shown[-1].firsts == ("masks", "model", "window")
    graph.status["done"] = 1
    counter.close()
    assert len(shown) == 5 and shown[-1].clips_done == 1, "the end is shown too"


def test_dead_and_waiting_actors_are_warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vace_batch"), "propagate", True)
    warnings = ActorWarnings()
    warnings.add(DEATH)
    warnings.add(ActorWaiting(pool="gpu", actor_id=2, seconds=31.0))
    warnings.add(ActorWaiting(pool="gpu", actor_id=4, seconds=31.0))  # of the same pool, at the same time
    warnings.add(ActorReady(pool="gpu", actor_id=3, seconds=1.0))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "killed" in caplog.text and "pool gpu waits for a machine" in caplog.text
