"""Find and remove artifacts that no record names: leftovers of attempts that were killed or lost a race."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vace_batch.errors import UsageError
from vace_batch.ledger.records import COMPACT_FROM, read_records
from vace_batch.ledger.run_plan import read_run
from vace_batch.ledger.schema import KINDS
from vace_batch.storage import files as storage
from vace_batch.storage.listing import Entry, list_entries

DEFAULT_GRACE_S = 24 * 3600.0

_ARTIFACTS = "artifacts/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Unneeded files of an output folder, relative to it, and their total size."""

    files: tuple[str, ...]
    num_bytes: int


def find_garbage(out: str, *, grace_s: float = DEFAULT_GRACE_S) -> Garbage:
    """Find files older than `grace_s` that no record names, and unfinished files of writers that were killed.

    A run may go on meanwhile if none of its steps takes longer than `grace_s` from writing an artifact to recording it.

    Raises:
        UsageError: `out` is no output folder, or the time is negative.
    """
    if grace_s < 0:
        raise UsageError(f"grace: expected 0 hours or more, got {grace_s / 3600:g}")
    read_run(out)
    before = time.time() - grace_s
    # Listed before the records are read: an artifact that is recorded in between counts as named.
    old = [entry for entry in list_entries(out) if entry.modified_s < before]
    artifacts = [entry for entry in old if entry.name.startswith(_ARTIFACTS)]
    unfinished = [entry for entry in old if entry.is_temporary and not entry.name.startswith(_ARTIFACTS)]
    return _garbage([*_unnamed(artifacts, out), *unfinished])


def _garbage(entries: Iterable[Entry]) -> Garbage:
    by_name = sorted(entries, key=lambda entry: entry.name)
    return Garbage(files=tuple(entry.name for entry in by_name), num_bytes=sum(entry.size for entry in by_name))


def _unnamed(artifacts: Sequence[Entry], out: str) -> list[Entry]:
    """Select the artifacts that no record names; the records are read only if there are artifacts."""
    named = set(_named(out)) if artifacts else set()
    return [entry for entry in artifacts if entry.name not in named]


def remove_garbage(out: str, garbage: Garbage) -> None:
    """Delete the files that `find_garbage` found."""
    for name in garbage.files:
        storage.delete(storage.join(out, name))


def _named(out: str) -> Iterator[str]:
    """List the artifacts that records name."""
    for kind in KINDS:
        for _, record in read_records(out, "done", kind, compact_from=COMPACT_FROM):
            yield from artifacts_in(record)


def artifacts_in(value: object) -> Iterator[str]:
    """List the artifacts' names anywhere in a record, in fields of any name."""
    if isinstance(value, str):
        if value.startswith(_ARTIFACTS):
            yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from artifacts_in(part)
