"""Write and read the records of an output folder: finished, failed and retried work.

    OUT/run.json                                the last run: manifest, options, the plan file
    OUT/plan/<digest>.parquet                   one row a job, never changed
    OUT/artifacts/<k2>/<key>/<attempt>.*        masks and generated frames
    OUT/ledger/done/<k2>/<key>.json             created exclusively, once the artifact is whole
    OUT/ledger/mishaps/<k2>/<key>.<id>.json     one for each run of a step that went wrong
    OUT/ledger/quarantine/<k2>/<key>.json       failed for good: the row's reason
    OUT/ledger/overrides/*.json                 values that `retry --set` gave to rows (overrides.py)
    OUT/ledger/usage/<run>.json                 predicted and real cost of a run (usage.py)
    OUT/ledger/compact/*.parquet                copies of records for quick reading (records.py)
    OUT/results/status=*/clips.parquet          one row a job, its windows nested (results.py)

The records are the truth; `results/` can be made again from them. `schema.py` has their fields.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from vace_batch.ledger.records import k2, record_name
from vace_batch.ledger.schema import (
    ClipRecord,
    DoneRecord,
    FailureRecord,
    PrepRecord,
    QualityRecord,
    Seal,
    WindowRecord,
)
from vace_batch.redact import redact
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_entries


def make_key(kind: str, *parts: object) -> str:
    """Make the key `<kind>-<digest>` of everything in `parts`, which must be JSON-able."""
    return f"{kind}-{storage.digest(json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False))}"


def quality_key(clip_key: str) -> str:
    """Make the key of the record that holds a clip's metrics."""
    return "quality-" + clip_key.removeprefix("clip-")


def now() -> str:
    """Read the clock: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ledger:
    """The records of one output folder. Any number of writers, on any machine; no state in memory."""

    def __init__(self, out: str) -> None:
        self.out = out

    def artifact_uri(self, key: str, suffix: str) -> str:
        """Make up a file name for an artifact, different for each attempt."""
        return storage.join(self.out, "artifacts", k2(key), key, uuid.uuid4().hex[:12] + suffix)

    def relative(self, uri: str) -> str:
        """Shorten `uri` to the form in records: relative to OUT, so that OUT can be moved."""
        prefix = self.out.rstrip("/") + "/"
        return uri[len(prefix) :] if uri.startswith(prefix) else uri

    def absolute(self, name: str) -> str:
        """Turn a record's relative name back into a URI."""
        return storage.join(self.out, name)

    def prep(self, key: str) -> PrepRecord | None:
        """Read the record of a prepared clip."""
        return cast(PrepRecord | None, self.done(key))

    def window(self, key: str) -> WindowRecord | None:
        """Read the record of a generated window."""
        return cast(WindowRecord | None, self.done(key))

    def clip(self, key: str) -> ClipRecord | None:
        """Read the record of a finished clip."""
        return cast(ClipRecord | None, self.done(key))

    def quality(self, clip_key: str) -> QualityRecord | None:
        """Read the metrics of a finished clip."""
        return cast(QualityRecord | None, self.done(quality_key(clip_key)))

    def done(self, key: str) -> dict[str, Any] | None:
        """Read the record of finished work of any kind; None while the work is unfinished."""
        return self._read("done", key)

    def failed(self, key: str) -> FailureRecord | None:
        """Read why a clip failed; None for a clip that did not."""
        return cast(FailureRecord | None, self._read("quarantine", key))

    def commit(self, key: str, record: DoneRecord) -> bool:
        """Record that `key` is finished; False when another attempt was first, whose artifact counts."""
        stamp = {"key": key, "commit": uuid.uuid4().hex[:12], "finished_at": now()}
        return storage.create_exclusive(self._uri("done", key), as_json({**stamp, **record}))

    def amend(self, key: str, fields: ClipRecord | Seal) -> None:
        """Add fields to the record of finished work; do nothing where `key` is not finished."""
        record = self.done(key)
        if record is not None:
            storage.publish(self._uri("done", key), as_json({**record, **fields}))

    def take_back(self, key: str) -> None:
        """Remove the record of finished work whose file is missing or another, so that the work is done again."""
        storage.delete(self._uri("done", key))

    def quarantine(self, key: str, record: FailureRecord) -> bool:
        """Record that a clip failed for good; False when another driver was first."""
        stamp = {"key": key, "commit": uuid.uuid4().hex[:12], "failed_at": now()}
        return storage.create_exclusive(self._uri("quarantine", key), as_json({**stamp, **_redacted(record)}))

    def forgive(self, key: str) -> None:
        """Remove the failure of `key`, so that the next run tries again."""
        storage.delete(self._uri("quarantine", key))

    def note_mishap(self, key: str, *, step: str, traceback: str) -> None:
        """Keep the traceback of one run of a step that went wrong, or the fault that was found in finished work."""
        name = f"{key}.{uuid.uuid4().hex[:8]}.json"
        uri = storage.join(self.out, "ledger", "mishaps", k2(key), name)
        storage.publish(uri, as_json({"key": key, "at": now(), "step": step, "traceback": redact(traceback)}))

    def keys(self, state: str, kind: str | None = None) -> set[str]:
        """List the keys in `state` (done or quarantine), of one kind or of all, without reading records."""
        folder = storage.join(self.out, "ledger", state)
        entries = list_entries(folder, "" if kind is None else kind + "-")
        return {entry.name.rsplit("/", 1)[-1].removesuffix(".json") for entry in entries if not entry.is_temporary}

    def _uri(self, state: str, key: str) -> str:
        return storage.join(self.out, "ledger", state, record_name(key))

    def _read(self, state: str, key: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = storage.read_json(self._uri(state, key))
        except FileNotFoundError:
            return None
        return record


def as_json(record: Mapping[str, object]) -> bytes:
    """Encode a record; lone surrogates of odd file names survive."""
    return json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False).encode("utf-8", "surrogatepass")


def _redacted(record: Mapping[str, object]) -> dict[str, object]:
    """Remove credentials from a failure's reason."""
    return {name: redact(str(value)) if name == "reason" and value else value for name, value in record.items()}
