"""The ledger of an output folder: records of finished, failed and tried work."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from vace_batch.ledger.records import Record, k2, record_name
from vace_batch.redact import redact
from vace_batch.storage import files as storage

KINDS = ("prep", "window", "clip", "quality", "attempts")


def make_key(kind: str, *parts: object) -> str:
    """`<kind>-<digest>` of everything in `parts`, which must be JSON-able."""
    return f"{kind}-{storage.digest(json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False))}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ledger:
    """Records of one output folder. Any number of writers, on any machine; no state in memory."""

    def __init__(self, out: str) -> None:
        self.out = out

    def artifact_uri(self, key: str, suffix: str) -> str:
        """A name that no other attempt has."""
        return storage.join(self.out, "artifacts", k2(key), key, uuid.uuid4().hex[:12] + suffix)

    def relative(self, uri: str) -> str:
        """`uri` as it is written into records: relative to OUT, so that OUT can be moved."""
        prefix = self.out.rstrip("/") + "/"
        return uri[len(prefix) :] if uri.startswith(prefix) else uri

    def absolute(self, name: str) -> str:
        return storage.join(self.out, name)

    def done(self, key: str) -> Record | None:
        return self._read("done", key)

    def failed(self, key: str) -> Record | None:
        return self._read("quarantine", key)

    def commit(self, key: str, record: Mapping[str, Any]) -> bool:
        """Record that `key` is finished; False when another attempt was first, whose artifact counts."""
        body = {"key": key, "commit": uuid.uuid4().hex[:12], "finished_at": now(), **record}
        return storage.create_exclusive(self._uri("done", key), as_json(body))

    def amend(self, key: str, fields: Mapping[str, Any]) -> None:
        """Say more of what is finished; nothing where `key` is not."""
        record = self.done(key)
        if record is not None:
            storage.publish(self._uri("done", key), as_json({**record, **fields}))

    def quarantine(self, key: str, record: Mapping[str, Any]) -> bool:
        """Record that `key` failed for good."""
        body = {"key": key, "commit": uuid.uuid4().hex[:12], "failed_at": now(), **_tell(record)}
        return storage.create_exclusive(self._uri("quarantine", key), as_json(body))

    def forgive(self, key: str) -> None:
        """Let a failed key be tried again."""
        storage.delete(self._uri("quarantine", key))

    def note_mishap(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep what went wrong in one attempt."""
        name = f"{key}.{uuid.uuid4().hex[:8]}.json"
        uri = storage.join(self.out, "ledger", "mishaps", k2(key), name)
        storage.publish(uri, as_json({"key": key, "at": now(), **_tell(record)}))

    def keys(self, state: str, kind: str | None = None) -> set[str]:
        """Keys in `state` (done or quarantine), by listing alone."""
        folder, prefix = storage.join(self.out, "ledger", state), "" if kind is None else kind + "-"
        found = (entry for entry in storage.list_entries(folder, prefix) if not entry.is_temporary)
        return {entry.name.rsplit("/", 1)[-1].removesuffix(".json") for entry in found}

    def _uri(self, state: str, key: str) -> str:
        return storage.join(self.out, "ledger", state, record_name(key))

    def _read(self, state: str, key: str) -> Record | None:
        try:
            record: Record = storage.read_json(self._uri(state, key))
        except FileNotFoundError:
            return None
        return record


def as_json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False).encode("utf-8", "surrogatepass")


def _tell(record: Mapping[str, Any]) -> Record:
    """A record whose reason and traceback hold no credentials."""
    return {name: redact(str(value)) if name in _FREE_TEXT and value else value for name, value in record.items()}


_FREE_TEXT = frozenset({"reason", "traceback"})
