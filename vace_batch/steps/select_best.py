"""Select the best of a clip's attempts: its video becomes the clip's output."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Sequence
from typing import cast

from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.ledger.outputs import seal_output
from vace_batch.ledger.run_plan import PlannedJob
from vace_batch.ledger.schema import AttemptRecord, AttemptsRecord
from vace_batch.options import Options
from vace_batch.quality.remedies import FIRST
from vace_batch.steps.clip import ClipWork
from vace_batch.storage import files as storage


def attempts_key(clip_key: str, options: Options) -> str:
    """Make the ledger key of a clip's finished attempts, which depends on the options of attempts and quality."""
    thresholds = options.quality.model_dump(exclude={"untouched"})
    return make_key("attempts", clip_key, options.attempts.model_dump(), thresholds)


def attempt_name(clip: ClipWork | PlannedJob, remedy: str) -> str:
    """Return the name in OUT of an attempt's video outside videos/, with the remedy in the name.

    The name holds part of the clip's key, as a changed row is another clip.
    """
    stem, suffix = posixpath.splitext(clip.output.removeprefix("videos/"))
    return f"attempts/{stem}.{clip.clip_key.removeprefix('clip-')[:8]}.{remedy}{suffix}"


def own_video(work: ClipWork, ledger: Ledger) -> str:
    """Return the name of this attempt's video, also after a better attempt has taken its place."""
    first = attempt_name(work, FIRST)
    return first if storage.exists(ledger.absolute(first)) else work.output


def set_aside(ledger: Ledger, clip: PlannedJob) -> None:
    """Copy the output of a finished clip to an attempt's name before another output takes its place.

    Raises:
        OSError: the output cannot be copied.
    """
    output = ledger.absolute(clip.output)
    kept = ledger.absolute(attempt_name(clip, FIRST))
    if storage.exists(output) and not storage.exists(kept):
        _copy(ledger, clip, output, kept)


def select_best(work: ClipWork, attempts: Sequence[AttemptRecord], chosen: int) -> None:
    """Make the chosen attempt the clip's output and record all attempts.

    Repeated after a crash, the function ends with the same files and record.

    Raises:
        OSError: a file cannot be copied.
    """
    ledger = Ledger(work.out)
    output = ledger.absolute(work.output)
    first = ledger.absolute(attempt_name(work, FIRST))
    if chosen == 0 and storage.exists(first):
        _copy(ledger, work, first, output)
    if chosen > 0:
        if not storage.exists(first):
            _copy(ledger, work, output, first)
        _copy(ledger, work, ledger.absolute(attempts[chosen]["output"]), output)
    record: AttemptsRecord = {
        "clip_key": work.clip_key,
        "attempts": list(attempts),
        "chosen": chosen,
        "retry_gpu_s": round(sum(attempt["gpu_s"] for attempt in attempts[1:]), 3),
    }
    record.update(cast(AttemptsRecord, seal_output(output)))
    ledger.commit(attempts_key(work.clip_key, work.options), record)


def _copy(ledger: Ledger, clip: ClipWork | PlannedJob, source: str, target: str) -> None:
    draft = ledger.artifact_uri(clip.clip_key, posixpath.splitext(target)[1])
    with storage.local_path(source) as path, storage.staging(target, draft) as staged:
        shutil.copyfile(path, staged)
