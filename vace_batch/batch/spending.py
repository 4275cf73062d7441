"""The resources that a run uses, beside the predicted ones, written to OUT while the run goes on."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping

from vace_batch import log
from vace_batch.batch.budget import Account
from vace_batch.cluster.events import ActorDied, ActorReady, Event, UnitRan
from vace_batch.costs import Used
from vace_batch.ledger.ledger import now
from vace_batch.ledger.schema import UsageRecord
from vace_batch.ledger.usage import USAGE, read_usage
from vace_batch.options import Options
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.prediction import prepare_cost
from vace_batch.storage import files as storage

_EVERY_S = 10.0
_LOG = log.get_logger(__name__)


class Spending:
    """Counts the resources of one run from its events, and writes them to OUT every few seconds and at the end.

    `account` also counts the earlier runs on OUT.
    """

    def __init__(
        self,
        out: str,
        options: Options,
        account: Account | None = None,
        *,
        has_gpu: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = storage.join(out, *USAGE, f"{uuid.uuid4().hex[:12]}.json")
        self._account = account or Account()
        self._devices = options.engine.devices
        self._has_gpu = has_gpu
        self._clock = clock
        self._began = now()
        self._written_at = clock()
        self.predicted: dict[str, Used] = {}
        self.real: dict[str, Used] = {}
        self.repeated = Used()
        self._held = Used()
        self._ready: dict[int, tuple[str, float]] = {}

    def add_standing(self, pools: Mapping[int, str]) -> None:
        """Count from now on the actors that an earlier run has left ready: each actor's pool by the actor's id."""
        self._ready.update({actor_id: (pool, self._clock()) for actor_id, pool in pools.items()})

    def add(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, UnitRan):
            self._ran(event)
        elif isinstance(event, ActorReady):
            self._ready[event.actor_id] = (event.pool, self._clock() - event.seconds)
        elif isinstance(event, ActorDied) and event.actor_id in self._ready:
            self._held += self._ready_time(*self._ready.pop(event.actor_id))
        if self._clock() - self._written_at > _EVERY_S:
            self._write()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        """Write the usage record; a failing write is logged and does not stop the run."""
        self._written_at = self._clock()
        held = sum((self._ready_time(*since) for since in self._ready.values()), self._held)
        record: UsageRecord = {
            "began_at": self._began,
            "at": now(),
            "predicted": _as_dicts(self.predicted),
            "real": _as_dicts(self.real),
            "repeated": self.repeated.as_dict(),
            "held": held.as_dict(),
            "stopped": self._account.stopped,
        }
        try:
            storage.publish(self._uri, json.dumps(record).encode())
        except OSError as error:
            _LOG.warning("the usage record of the run cannot be written: %s", error)

    def _ran(self, event: UnitRan) -> None:
        unit = event.unit
        used = self._used(event)
        if not event.ok:
            self.repeated += used
            self._account.add(used)
            return
        self.real[unit.kind] = self.real.get(unit.kind, Used()) + used
        is_made = bool(event.num_bytes or unit.leaves_bytes)
        self._account.add(used, unit.expected if is_made else None)
        if is_made:  # a result found in the ledger costs nothing
            expected = unit.expected
            if isinstance(event.meta, ClipPlan) and isinstance(unit.payload, ClipWork):
                expected = prepare_cost(unit.payload, event.meta)
            self.predicted[unit.kind] = self.predicted.get(unit.kind, Used()) + expected

    def _used(self, event: UnitRan) -> Used:
        if event.unit.pool != "gpu":
            return Used(cpu_s=event.cpu_s, num_bytes=event.num_bytes)
        seconds = event.meta if event.ok and isinstance(event.meta, float) else event.seconds
        if not self._has_gpu and event.cpu_s:  # a core is shared with others as a GPU is not
            seconds = event.cpu_s
        return Used(gpu_s=seconds * self._devices, num_bytes=event.num_bytes)

    def _ready_time(self, pool: str, since: float) -> Used:
        """Return the time since an actor became ready."""
        seconds = self._clock() - since
        return Used(gpu_s=seconds * self._devices) if pool == "gpu" else Used(cpu_s=seconds)


def open_account(out: str, options: Options) -> Account:
    """Read the account of the earlier runs on `out`; an empty account if the options set no bound."""
    if not options.budget.is_set:
        return Account()
    usage = read_usage(out)
    return Account(usage.spent, usage.factor)


def _as_dicts(steps: dict[str, Used]) -> dict[str, dict[str, float]]:
    return {name: used.as_dict() for name, used in steps.items()}
