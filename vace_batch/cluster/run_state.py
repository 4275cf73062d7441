"""The state of one run: its waiting, ready, running and ended units, and the payloads that they hold in the object
store.

No Ray and no clock here. Facts go in (`add`, `finish`, `lose`, `give_back`), orders come out (`next_call`). Payload
handles are opaque; dropping the last reference to a handle frees its payload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vace_batch.cluster.calls import Ending, Item, Order, Reply
from vace_batch.cluster.policy import (
    Blame,
    Head,
    History,
    Places,
    Trouble,
    batch_size,
    charge,
    choose,
    inherited,
    startable,
)
from vace_batch.cluster.ready_queue import Lane, ReadyQueue, Record, RecordState
from vace_batch.cluster.units import Failure, Limits, PoolSpec, Unit


class RunState:
    """All units of one run. Memory is bounded by the units that have not ended and the inputs that these may need."""

    def __init__(self, pools: Mapping[str, PoolSpec], limits: Limits) -> None:
        self._pools = pools
        self._limits = limits
        self._records: dict[str, Record] = {}
        self._seen: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._ready = ReadyQueue(self._records)
        self._open: Counter[str] = Counter()
        self._calls: dict[int, Order] = {}
        self._next_call_id = 0
        self.held_bytes = 0
        self.done = 0
        self.failed = 0
        self.retries = 0

    @property
    def planned(self) -> int:
        return len(self._seen)

    @property
    def open(self) -> int:
        """The number of units that have not ended."""
        return self.planned - self.done - self.failed

    def needed(self, pool: str) -> int:
        """Return the number of a pool's units that have not ended, or that must run again for their consumers."""
        return max(self._open[pool], self._ready.queued(pool))

    def add(self, units: Iterable[Unit]) -> list[Ending]:
        """Take new units; units whose input has already failed end at once.

        Raises:
            ValueError: an id came twice, an unknown pool, or an input that is unknown or no longer kept.
        """
        endings: list[Ending] = []
        for unit in units:
            if unit.unit_id in self._seen:
                raise ValueError(f"unit {unit.unit_id} was added twice")
            if unit.pool not in self._pools:
                raise ValueError(f"unit {unit.unit_id}: unknown pool {unit.pool!r}, expected one of {set(self._pools)}")
            self._seen.add(unit.unit_id)
            cause = next((self._failures[i] for i in unit.inputs if i in self._failures), None)
            if cause is not None:
                failure = inherited(unit.unit_id, 0, cause)
                self._count_failed(failure)
                endings.append(Ending(unit=unit, failure=failure))
                continue
            self._enter(unit)
        return endings

    def _enter(self, unit: Unit) -> None:
        missing = [i for i in unit.inputs if i not in self._records]
        if missing:
            raise ValueError(f"unit {unit.unit_id}: inputs {missing} are unknown or their payloads are no longer kept")
        producers = [self._records[i] for i in dict.fromkeys(unit.inputs)]
        stage, priority = unit.priority
        record = Record(
            unit=unit,
            rank=(-stage, -priority, len(self._seen)),
            depth=1 + max((producer.depth for producer in producers), default=-1),
            history=History(batch_limit=self._pools[unit.pool].max_batch if unit.batch_key is not None else 1),
        )
        self._records[unit.unit_id] = record
        self._open[unit.pool] += 1
        for producer in producers:
            producer.dependants += 1
        self._make_ready_or_block(record)

    def next_call(self, places: Mapping[str, Places]) -> Order | None:
        """Return the next call to place, or None while no unit can or should start."""
        while True:
            record = self._first(places)
            if record is None:
                return None
            if self._inputs_held(record):
                return self._form(record, places[record.unit.pool])
            self._ready.take(record)
            self._make_ready_or_block(record)

    def finish(self, call_id: int, replies: Sequence[Reply], handles: Sequence[object]) -> list[Ending]:
        """End a call that has come back with one reply and one payload handle a unit."""
        order = self._calls.pop(call_id)
        endings: list[Ending] = []
        for item, reply, handle in zip(order.items, replies, handles, strict=True):
            record = self._records[item.unit.unit_id]
            if reply.lost_inputs:
                self.retries += 1
                self._release(record)
                record.state = RecordState.BLOCKED
                for position in reply.lost_inputs:
                    endings += self._input_lost(item.unit.inputs[position], item.inputs[position])
                if not record.ended or record.state is RecordState.BLOCKED:
                    self._make_ready_or_block(record)
            elif reply.trouble is not None:
                size = len(order.items) if reply.shared else 1
                endings += self._troubled(record, reply.trouble, size, reply.seconds)
            else:
                endings += self._complete(record, reply, handle)
        return endings

    def lose(self, call_id: int, trouble: Trouble, seconds: float) -> list[Ending]:
        """End a call that will never come back, and charge `trouble` to its units."""
        order = self._calls.pop(call_id)
        endings: list[Ending] = []
        for item in order.items:
            record = self._records[item.unit.unit_id]
            endings += self._troubled(record, trouble, len(order.items), seconds / len(order.items))
        return endings

    def give_back(self, call_id: int) -> None:
        """Take back a call that never started; its units are ready again and are not charged."""
        for item in self._calls.pop(call_id).items:
            record = self._records[item.unit.unit_id]
            self._release(record)
            self._make_ready_or_block(record)

    def settle(self, unit_id: str) -> None:
        """Free a unit's payload if no consumer needs it, after the graph has been told of the unit's end."""
        record = self._records.get(unit_id)
        if record is not None:
            record.announced = True
            self._settle(record)

    def _first(self, places: Mapping[str, Places]) -> Record | None:
        """Return the unit that starts next."""
        records: dict[Lane, Record] = {}
        heads: list[Head] = []
        for record in self._ready.heads():
            records[record.lane] = record
            heads.append(self._head(record, places.get(record.unit.pool, Places())))
        head = choose(
            heads,
            held_bytes=self.held_bytes,
            budget_bytes=self._limits.payload_bytes,
            moving=bool(self._calls),
        )
        return None if head is None else records[head.lane]

    def _head(self, record: Record, places: Places) -> Head:
        can_start = startable(
            places,
            queued=self._ready.queued(record.unit.pool),
            mates=self._ready.mates(record),
            batch_limit=record.history.batch_limit,
            alone=record.is_suspect and self._pools[record.unit.pool].overlaps,
        )
        return Head(
            lane=record.lane,
            rank=record.rank,
            depth=record.depth,
            cost_bytes=record.unit.leaves_bytes,
            startable=can_start,
        )

    def _form(self, first: Record, places: Places) -> Order:
        """Make a call of `first` and the units that may share the call."""
        size = batch_size(places, mates=self._ready.mates(first), batch_limit=first.history.batch_limit)
        members = [first]
        self._start(first)
        while len(members) < size:
            mate = self._ready.first_of(first.group)
            if mate is None or not self._inputs_held(mate) or not self._fits(mate):
                break
            self._start(mate)
            members.append(mate)
        self._next_call_id += 1
        order = Order(
            call_id=self._next_call_id,
            pool=first.unit.pool,
            fn=first.unit.fn,
            items=tuple(self._item(member) for member in members),
        )
        self._calls[order.call_id] = order
        return order

    def _item(self, record: Record) -> Item:
        return Item(
            unit=record.unit,
            inputs=tuple(self._records[i].payload for i in record.unit.inputs),
            attempt=record.history.attempts + 1,
            last_code=record.history.last_code,
        )

    def _fits(self, record: Record) -> bool:
        """Whether the payload that a unit leaves fits into the budget."""
        leaves = record.unit.leaves_bytes
        return not leaves or self.held_bytes + leaves <= self._limits.payload_bytes

    def _start(self, record: Record) -> None:
        self._ready.take(record)
        record.state = RecordState.IN_CALL
        record.reserved_bytes = record.unit.leaves_bytes
        self.held_bytes += record.reserved_bytes

    def _release(self, record: Record) -> None:
        self.held_bytes -= record.reserved_bytes
        record.reserved_bytes = 0

    def _inputs_held(self, record: Record) -> bool:
        return all(self._records[i].payload is not None for i in record.unit.inputs)

    def _make_ready_or_block(self, record: Record) -> None:
        """Queue the unit, or block it until its lost inputs have been made again."""
        producers = [self._records[input_id] for input_id in record.unit.inputs]
        for producer in producers:
            producer.consumers.add(record.unit.unit_id)
        if self._inputs_held(record):
            self._ready.put(record)
            return
        record.state = RecordState.BLOCKED
        for producer in producers:
            if producer.payload is None and producer.state is RecordState.DONE:
                self._make_ready_or_block(producer)

    def _complete(self, record: Record, reply: Reply, handle: object) -> list[Ending]:
        record.state = RecordState.DONE
        record.payload = handle
        if not reply.has_payload:
            self._release(record)
        endings = []
        if not record.ended:
            record.ended = True
            self._open[record.unit.pool] -= 1
            self.done += 1
            endings.append(Ending(unit=record.unit, meta=reply.meta, seconds=reply.seconds))
        for consumer in sorted(record.consumers):
            waiting = self._records[consumer]
            if waiting.state is RecordState.BLOCKED and self._inputs_held(waiting):
                self._ready.put(waiting)
        self._detach(record)
        self._settle(record)
        return endings

    def _troubled(self, record: Record, trouble: Trouble, size: int, seconds: float) -> list[Ending]:
        self._release(record)
        record.history, failure = charge(
            record.unit.unit_id, record.history, trouble, batch_size=size, limits=self._limits
        )
        if failure is not None:
            return self._fail(record, failure, seconds)
        self.retries += 1
        self._make_ready_or_block(record)
        return []

    def _input_lost(self, unit_id: str, handle: object) -> list[Ending]:
        """Run the producer of a lost payload again, unless it has already replaced the payload."""
        record = self._records[unit_id]
        if record.payload is not handle:
            return []
        record.payload = None
        self._release(record)
        trouble = Trouble(code="machine_lost", reason="the result was lost with a machine", blame=Blame.NOBODY)
        record.history, failure = charge(unit_id, record.history, trouble, batch_size=1, limits=self._limits)
        return [] if failure is None else self._fail(record, failure, 0.0)

    def _fail(self, record: Record, failure: Failure, seconds: float) -> list[Ending]:
        """End a unit and all units that wait for it. A unit that was done and only made again stays done."""
        endings: list[Ending] = []
        if record.ended:
            record.state = RecordState.DONE
        else:
            record.state = RecordState.FAILED
            record.ended = True
            self._open[record.unit.pool] -= 1
            self._count_failed(failure)
            endings.append(Ending(unit=record.unit, failure=failure, seconds=seconds))
        for consumer_id in sorted(record.consumers):
            consumer = self._records.get(consumer_id)
            if consumer is None or consumer.state not in (RecordState.BLOCKED, RecordState.READY):
                continue
            if consumer.state is RecordState.READY:
                self._ready.take(consumer)
            cascade = inherited(consumer_id, consumer.history.attempts, failure)
            endings += self._fail(consumer, cascade, 0.0)
        self._detach(record)
        self._settle(record)
        return endings

    def _count_failed(self, failure: Failure) -> None:
        self.failed += 1
        self._failures[failure.unit_id] = replace(failure, traceback=None)

    def _detach(self, record: Record) -> None:
        for input_id in record.unit.inputs:
            producer = self._records[input_id]
            producer.consumers.discard(record.unit.unit_id)
            self._settle(producer)

    def _settle(self, record: Record) -> None:
        """Free the payload of an ended unit without consumers, and forget a unit that no other unit can name as its
        input."""
        if record.state not in (RecordState.DONE, RecordState.FAILED) or not record.announced or record.consumers:
            return
        record.payload = None
        self._release(record)
        if record.dependants == 0 and self._records.pop(record.unit.unit_id, None) is not None:
            for input_id in set(record.unit.inputs):
                producer = self._records[input_id]
                producer.dependants -= 1
                self._settle(producer)
