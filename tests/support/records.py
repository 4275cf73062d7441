"""Records for tests of the ledger, and a check of every record in an output folder against its type."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from vace_batch.ledger import schema
from vace_batch.ledger.ledger import Ledger, make_key
from vace_batch.ledger.outputs import Clip, seal_output
from vace_batch.ledger.run_plan import PlannedJob
from vace_batch.storage import files as storage

_DONE = {
    "prep": schema.PrepRecord,
    "window": schema.WindowRecord,
    "clip": schema.ClipRecord,
    "quality": schema.QualityRecord,
    "attempts": schema.AttemptsRecord,
}
_PLACES = {
    "run.json": schema.RunRecord,
    "progress.json": schema.HeartbeatRecord,
    "ledger/quarantine/*/*.json": schema.FailureRecord,
    "ledger/mishaps/*/*.json": schema.MishapRecord,
    "ledger/overrides/*.json": schema.OverrideRecord,
    "ledger/usage/*.json": schema.UsageRecord,
}


def planned_jobs(n: int) -> list[PlannedJob]:
    """Plan `n` jobs j0, j1, ... with keys of their numbers."""
    return [
        PlannedJob(
            job_id=f"j{k}",
            clip_key=make_key("clip", k),
            prep_key=make_key("prep", k),
            output=f"videos/j{k}.mp4",
            row="{}",
        )
        for k in range(n)
    ]


def commit_clip(out: str, clip: Clip, record: schema.ClipRecord, content: bytes = b"a video") -> None:
    """Write a clip's video unless a file has its name, and commit `record` with the video's seal."""
    uri = storage.join(out, clip.output)
    if not storage.exists(uri):
        storage.publish(uri, content)
    Ledger(out).commit(clip.clip_key, cast(schema.ClipRecord, {**record, **seal_output(uri)}))


def check_records(out: str | Path) -> set[str]:
    """Assert that all records of `out` are of their type, with no field unknown or missing; returns the types."""
    checked = set()
    for path in Path(out).glob("ledger/done/*/*.json"):
        kind = _DONE[path.name.split("-")[0]]
        _check(json.loads(path.read_text()), kind, path.name)
        checked.add(kind.__name__)
    for pattern, kind in _PLACES.items():
        for path in Path(out).glob(pattern):
            _check(json.loads(path.read_text()), kind, path.name)
            checked.add(kind.__name__)
    return checked


def _check(value: Any, hint: Any, where: str) -> None:
    if is_typeddict(hint):
        hints = get_type_hints(hint)
        assert isinstance(value, dict) and hint.__required_keys__ <= value.keys() <= hints.keys(), (
            f"{where}: {sorted(value)} is no {hint.__name__}"
        )
        for name, part in value.items():
            _check(part, hints[name], f"{where}: {name}")
    elif get_origin(hint) in (Union, types.UnionType):
        assert any(_fits(value, option) for option in get_args(hint)), f"{where}: {value!r} is no {hint}"
    elif get_origin(hint) is Literal:
        assert value in get_args(hint), f"{where}: {value!r} is no {hint}"
    elif get_origin(hint) is list:
        assert isinstance(value, list), where
        for part in value:
            _check(part, get_args(hint)[0], where)
    elif get_origin(hint) is dict:
        assert isinstance(value, dict), where
        for name, part in value.items():
            _check(part, get_args(hint)[1], f"{where}: {name}")
    elif hint is not Any:
        assert isinstance(value, (int, float) if hint is float else hint), f"{where}: {value!r} is no {hint}"


def _fits(value: Any, hint: Any) -> bool:
    try:
        _check(value, hint, "")
    except AssertionError:
        return False
    return True
