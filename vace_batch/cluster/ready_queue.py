"""Units of a run that are ready to start, sorted by rank, by lane and by the group of units that may share a call."""

from __future__ import annotations

import enum
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vace_batch.cluster.policy import SUSPECT, History
from vace_batch.cluster.units import Unit

Rank = tuple[int, int, int]
Lane = tuple[str, int, bool]
Group = tuple[object, ...]
_Entry = tuple[Rank, int, str]


class RecordState(enum.Enum):
    BLOCKED = enum.auto()
    READY = enum.auto()
    IN_CALL = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


@dataclass(slots=True)
class Record:
    """A unit in a run. `consumers` need its payload and have not ended; `dependants` counts all known units with it as
    an input."""

    unit: Unit
    rank: Rank
    depth: int
    history: History
    state: RecordState = RecordState.BLOCKED
    payload: object = None
    reserved_bytes: int = 0
    ticket: int = 0
    ended: bool = False
    announced: bool = False
    consumers: set[str] = field(default_factory=set)
    dependants: int = 0

    @property
    def lane(self) -> Lane:
        return self.unit.pool, self.depth, self.unit.leaves_bytes > 0

    @property
    def group(self) -> Group:
        """Units of one group may share a call; suspects share calls only with suspects."""
        own = self.unit.unit_id if self.unit.batch_key is None else ""
        return (*self.lane, self.unit.fn, self.unit.batch_key, own, self.history.batch_limit, self.is_suspect)

    @property
    def is_suspect(self) -> bool:
        return self.history.last_code in SUSPECT


class ReadyQueue:
    """The ready units among `records`, which holds all units of the run by id.

    A unit stands in the heap of its lane and in the heap of its group. Taken out by one of them, its entry in the other
    is stale and is thrown away at the top of that heap.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = records
        self._lanes: dict[Lane, list[_Entry]] = defaultdict(list)
        self._groups: dict[Group, list[_Entry]] = defaultdict(list)
        self._sizes: Counter[Group] = Counter()
        self._queued: Counter[str] = Counter()

    def queued(self, pool: str) -> int:
        """Return the number of ready units of a pool."""
        return self._queued[pool]

    def mates(self, record: Record) -> int:
        """Return the number of ready units that may share a call with this ready one, itself included."""
        return self._sizes[record.group]

    def put(self, record: Record) -> None:
        """Queue a unit as ready."""
        record.state = RecordState.READY
        record.ticket += 1
        entry = (record.rank, record.ticket, record.unit.unit_id)
        heapq.heappush(self._lanes[record.lane], entry)
        heapq.heappush(self._groups[record.group], entry)
        self._sizes[record.group] += 1
        self._queued[record.unit.pool] += 1

    def take(self, record: Record) -> None:
        """Take a ready unit out of the queue; the caller then sets its new state."""
        self._queued[record.unit.pool] -= 1
        self._sizes[record.group] -= 1
        if not self._sizes[record.group]:
            del self._sizes[record.group], self._groups[record.group]

    def heads(self) -> Iterator[Record]:
        """Yield the first ready unit of each lane."""
        for lane in list(self._lanes):
            record = self._first(self._lanes[lane])
            if record is None:
                del self._lanes[lane]
            else:
                yield record

    def first_of(self, group: Group) -> Record | None:
        """Return the first ready unit of a group."""
        return self._first(self._groups[group]) if group in self._groups else None

    def _first(self, heap: list[_Entry]) -> Record | None:
        while heap:
            _, ticket, unit_id = heap[0]
            record = self._records.get(unit_id)
            if record is not None and record.state is RecordState.READY and record.ticket == ticket:
                return record
            heapq.heappop(heap)
        return None
