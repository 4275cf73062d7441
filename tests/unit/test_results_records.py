"""Records read together, compacted, and the garbage between them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vace_batch import storage
from vace_batch.errors import UsageError
from vace_batch.garbage import find_garbage, remove_garbage
from vace_batch.records import read_records
from vace_batch.results import Ledger, PlannedJob, make_key, summarise, write_plan


def filled(out: Path, count: int) -> list[str]:
    ledger, keys = Ledger(str(out)), [make_key("clip", k) for k in range(count)]
    for number, key in enumerate(keys):
        ledger.commit(key, {"status": "done", "number": number})
    return keys


def compacts(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "ledger" / "compact").glob("*.parquet"))


def numbers(out: Path, compact_from: int | None = None) -> dict[str, int]:
    return {key: r["number"] for key, r in read_records(str(out), "done", "clip", compact_from=compact_from)}


def test_compacted_records_are_not_read_again(tmp_path: Path) -> None:
    keys = filled(tmp_path, 5)
    expected = {key: number for number, key in enumerate(keys)}
    assert numbers(tmp_path) == expected and compacts(tmp_path) == []
    assert numbers(tmp_path, 6) == expected and compacts(tmp_path) == []
    assert numbers(tmp_path, 5) == expected and len(compacts(tmp_path)) == 1
    # The same size and time, other content: only who reads the record itself would see it.
    record = next(tmp_path.glob(f"ledger/done/*/{keys[0]}.json"))
    stat, text = record.stat(), record.read_text()
    record.write_text(text.replace('"number": 0', '"number": 7'))
    os.utime(record, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert numbers(tmp_path) == expected
    numbers(tmp_path, 1)
    assert len(compacts(tmp_path)) == 1


def test_a_record_taken_back_or_changed_is_what_the_ledger_says(tmp_path: Path) -> None:
    ledger, keys = Ledger(str(tmp_path)), [make_key("clip", k) for k in range(3)]
    for key in keys:
        ledger.quarantine(key, {"reason": "first"})

    def reasons() -> dict[str, str]:
        return {k: r["reason"] for k, r in read_records(str(tmp_path), "quarantine", "clip", compact_from=1)}

    assert reasons() == dict.fromkeys(keys, "first")
    ledger.forgive(keys[0])
    assert reasons() == dict.fromkeys(keys[1:], "first")
    ledger.quarantine(keys[0], {"reason": "other"})
    assert reasons() == {keys[0]: "other", keys[1]: "first", keys[2]: "first"}


def test_a_record_taken_back_while_it_is_read_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, key = Ledger(str(tmp_path)), make_key("clip", 1)
    ledger.quarantine(key, {"reason": "first"})
    assert list(read_records(str(tmp_path), "quarantine", "clip", compact_from=1))
    ledger.forgive(key)
    ledger.quarantine(key, {"reason": "second"})  # the copy is old by now
    real = storage.list_entries

    def list_then_forgive(uri: str, prefix: str = "") -> list[storage.Entry]:
        entries = list(real(uri, prefix))
        ledger.forgive(key)
        return entries

    monkeypatch.setattr(storage, "list_entries", list_then_forgive)
    assert list(read_records(str(tmp_path), "quarantine", "clip")) == []


@pytest.mark.parametrize("dies_at", ["publish", "delete"])
def test_a_driver_killed_while_compacting_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    keys: list[str] = []
    for round_ in range(9):  # the ninth finds eight files, and merges
        keys += [make_key("clip", round_, k) for k in range(3)]
        for number, key in enumerate(keys):
            Ledger(str(tmp_path)).commit(key, {"number": number})
        if round_ < 8:
            numbers(tmp_path, 1)
    assert len(compacts(tmp_path)) == 8
    expected = {key: number for number, key in enumerate(keys)}
    real, calls = getattr(storage, dies_at), []

    def die(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == (1 if dies_at == "publish" else 4):
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(storage, dies_at, die)
    with pytest.raises(KeyboardInterrupt):
        numbers(tmp_path, 1)
    monkeypatch.undo()
    assert numbers(tmp_path) == expected
    assert numbers(tmp_path, 1) == expected
    assert numbers(tmp_path) == expected


def test_a_broken_compact_file_is_passed_over(tmp_path: Path) -> None:
    keys = filled(tmp_path, 3)
    numbers(tmp_path, 1)
    (file,) = (tmp_path / "ledger" / "compact").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert set(numbers(tmp_path)) == set(keys)


def test_many_drivers_compact_at_once(tmp_path: Path) -> None:
    keys = filled(tmp_path, 40)

    def drive(number: int) -> dict[str, int]:
        ledger = Ledger(str(tmp_path))
        for k in range(10):
            ledger.commit(make_key("clip", "more", number, k), {"number": -1})
            read = numbers(tmp_path, 1)
        return read

    with ThreadPoolExecutor(4) as pool:
        for read in pool.map(drive, range(4)):
            assert {key: read[key] for key in keys} == {key: number for number, key in enumerate(keys)}
    assert len(numbers(tmp_path)) == 80 and len(compacts(tmp_path)) <= 4 * 9


def test_garbage_is_what_no_record_names_and_is_old(tmp_path: Path) -> None:
    out, ledger = str(tmp_path), Ledger(str(tmp_path))
    job = PlannedJob(job_id="a", clip_key=make_key("clip", 1), prep_key="p", output="videos/a.mp4", row="{}")
    write_plan(out, [job], {})
    window, prep = make_key("window", 1), make_key("prep", 1)
    kept = [
        ledger.artifact_uri(window, ".mkv"),
        ledger.artifact_uri(prep, ".masks"),
        ledger.artifact_uri(prep, ".holes"),
    ]
    lost = [ledger.artifact_uri(window, ".mkv"), ledger.artifact_uri(make_key("window", 2), ".mkv")]
    lost.append(ledger.artifact_uri(job.clip_key, ".mp4"))  # the draft of a clip whose writer was killed
    for uri in kept + lost:
        storage.publish(uri, b"12345")
    temporary = tmp_path / "ledger" / "done" / "00" / ".part-0123"
    temporary.parent.mkdir(parents=True)
    temporary.write_bytes(b"half")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "old.mp4").write_bytes(b"a user's file")
    ledger.commit(window, {"artifact": ledger.relative(kept[0])})
    ledger.commit(prep, {"plan": {"masks": ledger.relative(kept[1]), "parts": [ledger.relative(kept[2])]}})
    ledger.commit(job.clip_key, {"status": "done"})
    assert find_garbage(out).files == ()
    long_ago = time.time() - 25 * 3600
    for uri in kept + lost[1:]:
        os.utime(uri, (long_ago, long_ago))
    os.utime(temporary, (long_ago, long_ago))
    names = {ledger.relative(uri) for uri in lost[1:]} | {"ledger/done/00/.part-0123"}
    found = find_garbage(out)
    assert set(found.files) == names and found.num_bytes == 14
    remove_garbage(out, found)
    left = find_garbage(out, grace_s=0)
    assert set(left.files) == {ledger.relative(lost[0])}
    assert all(storage.exists(uri) for uri in kept) and (tmp_path / "videos" / "old.mp4").exists()
    assert summarise(out).done == 1


def test_a_folder_that_is_no_output_is_not_cleaned(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(UsageError):
        find_garbage(str(tmp_path), grace_s=0)
    write_plan(str(tmp_path), [], {})
    with pytest.raises(UsageError):
        find_garbage(str(tmp_path), grace_s=-1)


def test_reading_the_ledger_starts_no_scanner(tmp_path: Path) -> None:
    """Threads of pyarrow's dataset scanner outlive a read, and one that frees a buffer at exit aborts the driver."""
    filled(tmp_path, 5)
    assert len(numbers(tmp_path, 5)) == 5 and len(compacts(tmp_path)) == 1
    code = "import sys; from vace_batch.records import read_records as read; "
    code += "assert len(list(read(sys.argv[1], 'done', 'clip'))) == 5; assert 'pyarrow.dataset' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
