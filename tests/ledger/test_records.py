"""Records read together, compacted, and the garbage between them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vace_batch.ledger import records
from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.ledger.records import read_records
from vace_batch.storage import files as storage
from vace_batch.storage.listing import Entry, list_entries


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
    real = list_entries

    def list_then_forgive(uri: str, prefix: str = "") -> list[Entry]:
        entries = list(real(uri, prefix))
        ledger.forgive(key)
        return entries

    monkeypatch.setattr("vace_batch.ledger.records.list_entries", list_then_forgive)
    assert list(read_records(str(tmp_path), "quarantine", "clip")) == []


@pytest.mark.parametrize("dies_at", ["publish", "delete"])
def test_a_driver_killed_while_compacting_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    keys = filled(tmp_path, 3)
    assert len(numbers(tmp_path, 1)) == 3
    keys += [make_key("clip", "later", k) for k in range(3)]
    for number, key in enumerate(keys):
        Ledger(str(tmp_path)).commit(key, {"number": number})
    expected = {key: number for number, key in enumerate(keys)}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, dies_at, die)
    with pytest.raises(KeyboardInterrupt):
        numbers(tmp_path, 1)
    monkeypatch.undo()
    assert numbers(tmp_path) == expected
    assert len(compacts(tmp_path)) == (1 if dies_at == "publish" else 2)
    assert numbers(tmp_path, 1) == expected
    assert numbers(tmp_path) == expected


def test_a_broken_compact_file_is_passed_over(tmp_path: Path) -> None:
    keys = filled(tmp_path, 3)
    numbers(tmp_path, 1)
    (file,) = (tmp_path / "ledger" / "compact").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert set(numbers(tmp_path)) == set(keys)
    assert set(numbers(tmp_path, 3)) == set(keys) and len(compacts(tmp_path)) == 1
    assert file.stat().st_size > 50


@pytest.fixture
def quick_to_settle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Folders are settled after a moment instead of seconds; the function waits for it."""
    monkeypatch.setattr(records, "_SETTLED_S", 0.03)
    return lambda: time.sleep(0.05)


def test_folders_that_did_not_change_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_to_settle: Callable[[], None]
) -> None:
    keys = filled(tmp_path, 5)
    quick_to_settle()
    expected = numbers(tmp_path, 1)
    listed: list[str] = []

    def list_and_note(uri: str, prefix: str = "") -> Iterator[Entry]:
        listed.append(os.path.basename(uri))
        return list_entries(uri, prefix)

    for module in ("ledger.records", "storage.listing"):  # also through list_files
        monkeypatch.setattr(f"vace_batch.{module}.list_entries", list_and_note)
    assert numbers(tmp_path) == expected and listed == ["compact"]
    ledger, more = Ledger(str(tmp_path)), make_key("clip", "more")
    ledger.commit(more, {"number": 7})
    assert numbers(tmp_path) == expected | {more: 7} and listed == ["compact"] * 2 + [records.k2(more)]
    (tmp_path / "ledger" / "done" / records.record_name(keys[0])).unlink()
    assert numbers(tmp_path).keys() == expected.keys() - {keys[0]} | {more}


def test_where_folders_do_not_tell_changes_all_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_to_settle: Callable[[], None]
) -> None:
    """A bucket that is mounted may give its folders the time when it was mounted."""
    monkeypatch.setattr(records, "_folder_version", lambda _: "7-7")
    keys = filled(tmp_path, 2)
    quick_to_settle()
    numbers(tmp_path, 1)
    Ledger(str(tmp_path)).commit(make_key("clip", "more"), {"number": 7})
    assert len(numbers(tmp_path)) == len(keys) + 1 and len(compacts(tmp_path)) == 1


def test_whatever_happens_between_readings_the_ledger_is_what_its_files_say(
    tmp_path: Path, quick_to_settle: Callable[[], None]
) -> None:
    """Random records come, go and come again; copies are made, lost, broken and brought back."""
    for seed in range(3):
        draw, out = random.Random(seed), tmp_path / str(seed)
        ledger, model, saved = Ledger(str(out)), dict[str, str](), dict[str, bytes]()
        keys = [f"clip-{number:02x}{letter}" for number in range(3) for letter in "ab"]
        for step in range(30):
            key, compact = draw.choice(keys), out / "ledger" / "compact"
            match draw.randrange(7):
                case 0 | 1 | 2 if ledger.quarantine(key, {"reason": f"{step}"}):
                    model[key] = f"{step}"
                case 3:
                    ledger.forgive(key)
                    model.pop(key, None)
                case 4:
                    quick_to_settle()
                    saved |= {file.name: file.read_bytes() for file in compact.glob("*.parquet")}
                    found = read_records(str(out), "quarantine", "clip", compact_from=1)
                    assert {key: record["reason"] for key, record in found} == model
                case 5 if saved:  # an old copy is back, as after a slow driver
                    name = draw.choice(sorted(saved))
                    (compact / name).write_bytes(saved[name])
                case 6:
                    for file in list(compact.glob("*.parquet"))[:1]:
                        file.unlink()
            assert {key: r["reason"] for key, r in read_records(str(out), "quarantine", "clip")} == model, (seed, step)


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


def test_reading_the_ledger_starts_no_scanner(tmp_path: Path) -> None:
    """Threads of pyarrow's dataset scanner outlive a read, and one that frees a buffer at exit aborts the driver."""
    filled(tmp_path, 5)
    assert len(numbers(tmp_path, 5)) == 5 and len(compacts(tmp_path)) == 1
    code = "import sys; from vace_batch.ledger.records import read_records as read; "
    code += "assert len(list(read(sys.argv[1], 'done', 'clip'))) == 5; assert 'pyarrow.dataset' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
