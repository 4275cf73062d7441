"""Compare finished videos with their records: a clip is done only while its video agrees with its record.

Every run takes a cheap look: one listing, whose size and version (time of change, or etag) are those that the record
has. A file of another version is read in full. So a copied OUT is read once, and its records then have the new
versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.records import read_records, read_tables
from vace_batch.ledger.schema import AttemptsRecord, ClipRecord, Seal
from vace_batch.storage import files as storage
from vace_batch.storage.listing import Entry, find_entry, list_entries

FOLDERS = ("videos", "attempts")
"""The folders of OUT that hold finished videos."""

_READ_AT_ONCE = 8
_SEAL = ("num_bytes", "sha256", "output_version")


def seal_file(path: str) -> Seal:
    """Measure size and SHA-256 of a local file that is about to be published."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"num_bytes": file.seek(0, 2), "sha256": sha256}


def seal_output(uri: str) -> Seal:
    """Measure size, SHA-256 and version of a published video.

    Raises:
        FileNotFoundError: no file has that name.
    """
    entry = find_entry(uri)
    with storage.local_path(uri) as path:
        return {**seal_file(path), "output_version": "" if entry is None else entry.version}


def seal_in(record: Mapping[str, Any]) -> Seal:
    """Take the fields of `Seal` from a record."""
    return cast(Seal, {name: record[name] for name in _SEAL if record.get(name) is not None})


def output_problem(uri: str, name: str, seal: Seal, *, whole: bool = False) -> str | None:
    """Compare the file at `uri`, called `name`, with its seal; returns the difference, or None.

    The file is read if its version is another, or with `whole`.
    """
    if not seal.get("sha256") or "num_bytes" not in seal:
        return f"{name}: its record names neither size nor SHA-256"
    entry = find_entry(uri)
    if entry is None:
        return f"{name} is missing"
    if entry.size != seal["num_bytes"]:
        state = "is cut off:" if entry.size < seal["num_bytes"] else "was replaced:"
        return f"{name} {state} {entry.size:,} bytes, {seal['num_bytes']:,} were written"
    if not whole and entry.version == seal.get("output_version"):
        return None
    try:
        content = seal_output(uri)
    except FileNotFoundError:
        return f"{name} is missing"
    return None if content["sha256"] == seal["sha256"] else f"{name} was replaced: its content is not what was written"


class Clip(Protocol):
    """A clip's identity and the name of its output below OUT: a `PlannedJob`, or a clip's work."""

    @property
    def clip_key(self) -> str: ...

    @property
    def output(self) -> str: ...


class Outputs:
    """The videos in an output folder, and the seals that records of finished clips have for them."""

    def __init__(self, out: str) -> None:
        self._ledger = Ledger(out)
        # The records first: a video that is published and recorded in between is then listed.
        self._clips = dict(_clip_seals(out))
        self._attempts = _attempts(out)
        self._files: dict[str, Entry] = {}
        for folder in FOLDERS:
            entries = list_entries(storage.join(out, folder))
            self._files |= {f"{folder}/{entry.name}": entry for entry in entries if not entry.is_temporary}

    @property
    def files(self) -> Mapping[str, Entry]:
        """The videos that are there, by name below OUT."""
        return self._files

    @property
    def recorded(self) -> Mapping[str, str | None]:
        """The output that each finished clip's record names, by the clip's key."""
        return {key: output for key, (output, _) in self._clips.items()}

    def is_done(self, clip_key: str) -> bool:
        """Whether the clip has a record of finished work."""
        return clip_key in self._clips

    def attempts_of(self, clip_key: str) -> Sequence[AttemptsRecord]:
        """Return the records of a clip's attempts, under all options of attempts, the latest last."""
        return self._attempts.get(clip_key, ())

    def looks_equal(self, clip: Clip) -> bool:
        """Whether the finished clip's output had, when it was listed, the version that its record has."""
        entry, (_, seal) = self._files.get(clip.output), self._seal(clip.clip_key)
        return entry is not None and bool(seal.get("sha256")) and entry.version == seal.get("output_version")

    def problem(self, clip_key: str, name: str, *, whole: bool = False, refresh: bool = False) -> str | None:
        """Compare a finished clip's output with its record; returns the difference, or None.

        Of several attempts, the chosen one is the output. `whole` reads the file in any case. `refresh` writes the
        version of an equal file that was copied or touched into the record.
        """
        record_key, seal = self._seal(clip_key)
        uri = self._ledger.absolute(name)
        problem = output_problem(uri, name, seal, whole=whole)
        if problem is not None:
            return f"{name} was made with other settings" if self._of_others(clip_key, name) else problem
        if refresh and (now := find_entry(uri)) is not None and now.version != seal.get("output_version"):
            self._ledger.amend(record_key, {"output_version": now.version})
        return None

    def own_problem(self, clip_key: str, name: str, *, whole: bool = False) -> str | None:
        """Compare the video at `name` with the record of this clip alone, as an attempt; returns the difference."""
        return output_problem(self._ledger.absolute(name), name, self._clips[clip_key][1], whole=whole)

    def _seal(self, clip_key: str) -> tuple[str, Seal]:
        """Return the record that answers for a clip's output: its key and its seal."""
        attempts = self.attempts_of(clip_key)
        return (attempts[-1]["key"], seal_in(attempts[-1])) if attempts else (clip_key, self._clips[clip_key][1])

    def _of_others(self, clip_key: str, name: str) -> bool:
        """Whether the file is the output of another clip of the same name, as of the row with other settings."""
        entry = self._files.get(name)
        if entry is None:
            return False
        seals = [seal for key, (output, seal) in self._clips.items() if output == name and key != clip_key]
        return any(
            output_problem(self._ledger.absolute(name), name, seal) is None
            for seal in seals
            if seal.get("num_bytes") == entry.size
        )


def find_problems(
    outputs: Outputs, jobs: Iterable[Clip], *, whole: bool = False, refresh: bool = False
) -> dict[str, str]:
    """Compare the finished clips' videos with their records; returns the problem of each that has one, by clip key.

    `whole` and `refresh` as in `Outputs.problem`.
    """
    done = [job for job in jobs if outputs.is_done(job.clip_key) and (whole or not outputs.looks_equal(job))]
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        problems = pool.map(lambda job: outputs.problem(job.clip_key, job.output, whole=whole, refresh=refresh), done)
        return {job.clip_key: problem for job, problem in zip(done, problems, strict=True) if problem is not None}


def _clip_seals(out: str) -> Iterator[tuple[str, tuple[str | None, Seal]]]:
    for table in read_tables(out, "done", "clip", ("key", "output", *_SEAL)):
        for row in table.to_pylist():
            yield row["key"], (row["output"], seal_in(row))


def _attempts(out: str) -> dict[str, list[AttemptsRecord]]:
    """Read the records of attempts by clip, the latest of each clip last."""
    records: dict[str, list[AttemptsRecord]] = {}
    for _, content in read_records(out, "done", "attempts"):
        record = cast(AttemptsRecord, content)
        records.setdefault(record["clip_key"], []).append(record)
    return {key: sorted(several, key=lambda record: record["finished_at"]) for key, several in records.items()}


def settle(ledger: Ledger, key: str, name: str, body: ClipRecord, *, replace: bool) -> str | None:
    """Record a clip whose video was just published at `name`; returns the difference if another video is at `name` now.

    `replace` says that an earlier record exists, whose video was missing or another. Two writers of one clip may both
    have published: the record that won then gets the seal of the video that is there. A writer of other settings may
    have published meanwhile: then this clip is not done.
    """
    uri = ledger.absolute(name)
    if replace:
        ledger.take_back(key)
    if not ledger.commit(key, body) and output_problem(uri, name, seal_in(body)) is None:
        ledger.amend(key, seal_in(body))
    record = ledger.clip(key)
    if record is None:
        return f"{name}: its record was taken back meanwhile"
    problem = output_problem(uri, name, seal_in(record))
    if problem is not None and record.get("sha256") == body.get("sha256"):
        ledger.take_back(key)
    return problem
