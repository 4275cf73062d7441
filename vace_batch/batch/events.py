"""The events of a run as structured log lines: units that start, end or fail and actors that come and go, with job,
window, attempt and host.

Events are logged at DEBUG; `VACE_BATCH_EVENTS=FILE` also writes them to FILE at any log level (log.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from vace_batch import log
from vace_batch.cluster.events import (
    ActorDied,
    ActorReady,
    ActorWaiting,
    Event,
    UnitDone,
    UnitFailed,
    UnitRan,
    UnitStarted,
)
from vace_batch.cluster.machines import host_of
from vace_batch.cluster.units import Unit
from vace_batch.costs import StepKind

_LOG = logging.getLogger(log.EVENTS)


class EventLog:
    """Logs the events of one run. `jobs_of` gives the ids of the jobs that need a unit."""

    def __init__(self, jobs_of: Callable[[Unit], Sequence[str]]) -> None:
        self._jobs_of = jobs_of
        self._hosts: dict[int, str] = {}
        self._runs: dict[str, dict[str, Any]] = {}

    def add(self, event: Event) -> None:
        """Log an event."""
        if not _LOG.isEnabledFor(logging.DEBUG):
            return
        if isinstance(event, UnitRan):
            if event.ok:  # done follows
                return
            name = "run without result"
            fields = self._where(event.unit) | {"seconds": round(event.seconds, 3)}
        elif isinstance(event, UnitStarted | UnitDone | UnitFailed):
            name, fields = self._of_unit(event)
        else:
            name, fields = self._of_actor(event)
        _LOG.debug("%s", name, extra={"event": name, **fields})

    def close(self) -> None:
        """Do nothing: every line is written already."""

    def _of_unit(self, event: UnitStarted | UnitDone | UnitFailed) -> tuple[str, dict[str, Any]]:
        unit = event.unit
        if isinstance(event, UnitStarted):
            self._runs[unit.unit_id] = {"attempt": event.attempt, "host": self._hosts.get(event.actor_id, "")}
            return "started", self._where(unit)
        fields = self._where(unit) | {"seconds": round(event.seconds, 3)}
        self._runs.pop(unit.unit_id, None)
        if isinstance(event, UnitDone):
            return "done", fields
        return "failed", fields | {"code": event.failure.code, "reason": event.failure.reason}

    def _where(self, unit: Unit) -> dict[str, Any]:
        return _unit_fields(unit, self._jobs_of(unit)) | self._runs.get(unit.unit_id, {})

    def _of_actor(self, event: ActorReady | ActorDied | ActorWaiting) -> tuple[str, dict[str, Any]]:
        fields: dict[str, Any] = {"pool": event.pool, "actor": event.actor_id}
        if isinstance(event, ActorReady):
            self._hosts[event.actor_id] = host_of(event.node)
            return "actor ready", fields | {"host": self._hosts[event.actor_id], "seconds": round(event.seconds, 3)}
        if isinstance(event, ActorDied):
            host = self._hosts.pop(event.actor_id, "")
            return "actor died", fields | {"host": host, "code": event.cause, "reason": event.detail}
        return "actor waits for a machine", fields | {"seconds": round(event.seconds, 3)}


def _unit_fields(unit: Unit, jobs: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"step": unit.kind, "job": jobs[0] if jobs else ""}
    if unit.kind in (StepKind.BUILD, StepKind.GENERATE):
        fields["window"] = unit.key
    if len(jobs) > 1:
        fields["shared_with"] = list(jobs[1:])
    return fields
