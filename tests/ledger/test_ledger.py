"""The ledger and its counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from vace_batch.ledger.ledger import Ledger, make_key


def test_keys_follow_everything_in_them() -> None:
    assert make_key("window", 1, {"a": 2, "b": 3}) == make_key("window", 1, {"b": 3, "a": 2})
    assert make_key("window", 1) != make_key("window", "1")
    with pytest.raises(ValueError):
        make_key("window", float("nan"))


def test_commit_once_and_read_back(tmp_path: Path) -> None:
    ledger, key = Ledger(str(tmp_path)), make_key("window", 1)
    assert ledger.done(key) is None
    assert ledger.commit(key, {"artifact": "a"}) and not ledger.commit(key, {"artifact": "b"})
    record = ledger.done(key)
    assert record is not None and record["artifact"] == "a" and record["key"] == key
    assert ledger.keys("done") == {key} and ledger.keys("done", "clip") == set()


def test_forgiven_keys_are_pending_again(tmp_path: Path) -> None:
    ledger, key = Ledger(str(tmp_path)), make_key("clip", 1)
    ledger.quarantine(key, {"reason": "x"})
    assert ledger.keys("quarantine", "clip") == {key}
    ledger.forgive(key)
    assert ledger.failed(key) is None


def test_artifacts_are_relative_in_records(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    uri = ledger.artifact_uri(make_key("window", 1), ".mkv")
    assert uri != ledger.artifact_uri(make_key("window", 1), ".mkv")
    assert ledger.relative(uri).startswith("artifacts/") and ledger.absolute(ledger.relative(uri)) == uri
