"""Files that no record names: found when they are old, and removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from vace_batch.errors import UsageError
from vace_batch.ledger.garbage import find_garbage, remove_garbage
from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.ledger.run_plan import PlannedJob, write_plan
from vace_batch.ledger.summary import summarise
from vace_batch.storage import files as storage


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
