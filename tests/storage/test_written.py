"""Test the count of bytes that a process has written."""

from __future__ import annotations

from pathlib import Path

from vace_batch.storage import files as storage
from vace_batch.storage.written import written_bytes


def test_written_bytes_are_those_of_all_files(tmp_path: Path) -> None:
    before = written_bytes()
    storage.publish(str(tmp_path / "a"), b"12345")
    assert storage.create_exclusive(str(tmp_path / "b"), b"123")
    assert not storage.create_exclusive(str(tmp_path / "b"), b"456")
    with storage.staging(str(tmp_path / "c"), str(tmp_path / "c.draft")) as path:
        Path(path).write_bytes(b"1234567")
    assert written_bytes() - before == 15
