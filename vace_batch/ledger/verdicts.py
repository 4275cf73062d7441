"""Verdicts on finished clips: what the ledger's records of their numbers and attempts say, read for many at once.

A record has the numbers, and the verdict that the run's thresholds made of them; where other thresholds count now, the
verdict is made of the numbers again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vace_batch.ledger.records import COMPACT_FROM, Record, read_records, read_tables
from vace_batch.options import QualitySettings
from vace_batch.quality.verdict import Verdict, judge
from vace_batch.storage import files as storage

_NO_ATTEMPTS: Record = {"attempts": None, "retry_gpu_s": 0.0}
NO_VERDICT: Record = {"verdict": None, "score": None, "reasons": [], "checks": [], "metrics": None, **_NO_ATTEMPTS}
"""Of a clip that was not measured: it failed, or the run does without."""

_BETWEEN = "; "


def quality_key(clip_key: str) -> str:
    """Under which the numbers of a clip are recorded."""
    return "quality-" + clip_key.removeprefix("clip-")


def verdict_of(record: Mapping[str, Any], settings: QualitySettings) -> Verdict:
    """What the thresholds make of a clip's numbers; what could not be measured is for a person to look at."""
    unmeasured = record.get("unmeasured")
    if unmeasured is not None:
        return Verdict(verdict="review", score=1.0, reasons=(f"it could not be measured: {unmeasured}",))
    return judge(record["metrics"], record["checks"], settings, record["broken"])


def brief(record: Mapping[str, Any], settings: QualitySettings) -> Record:
    """The verdict as a record has it, to be read without the rest: word, reasons, and by which thresholds."""
    verdict = verdict_of(record, settings)
    return {"status": verdict.verdict, "reason": _BETWEEN.join(verdict.reasons), "error_code": _thresholds(settings)}


class Verdicts:
    """The verdicts of an output folder. `whole`: with scores and numbers, not only in words."""

    def __init__(self, out: str, settings: QualitySettings, *, whole: bool = False, compact: bool = False) -> None:
        self._settings = settings
        self._table = _read(out, settings, whole=whole, compact=compact)
        self._climbs: dict[str, Record] = {}
        for _, record in read_records(out, "done", "attempts"):
            earlier = self._climbs.get(record["clip_key"])
            if earlier is None or record["finished_at"] >= earlier["finished_at"]:
                self._climbs[record["clip_key"]] = record

    def find(self, clip_keys: pa.ChunkedArray) -> pa.ChunkedArray:
        """For each clip the number to ask `rows` with; null where it was not measured."""
        wanted = pc.replace_substring(clip_keys, "clip-", "quality-", max_replacements=1)
        return pc.index_in(wanted, self._table["key"].combine_chunks())

    def counts(self, clip_keys: pa.ChunkedArray) -> dict[str, int]:
        """How many clips have each verdict."""
        words = self._table["status"].take(self.find(clip_keys).drop_null())
        counts = {str(item["values"]): int(item["counts"]) for item in pc.value_counts(words).to_pylist()}
        climbed = [key for key in clip_keys.to_pylist() if key in self._climbs] if self._climbs else []
        for key, before in zip(climbed, self._words(climbed), strict=True):
            counts[before] -= 1
            after = _kept(self._climbs[key])["verdict"]
            counts[after] = counts.get(after, 0) + 1
        return {word: count for word, count in counts.items() if count}

    def further_gpu_s(self, clip_keys: pa.ChunkedArray) -> float:
        """GPU-seconds of the attempts at these clips after the first."""
        mine = (self._climbs.get(key, _NO_ATTEMPTS) for key in clip_keys.to_pylist()) if self._climbs else ()
        return round(sum(float(climb["retry_gpu_s"]) for climb in mine), 3)

    def rows(self, clip_keys: list[str], numbers: pa.ChunkedArray) -> list[Record]:
        """What is said of each clip: of one with several attempts, of the attempt that is kept."""
        found = self._table.take(numbers).to_pylist()
        return [self._row(key, record) for key, record in zip(clip_keys, found, strict=True)]

    def passing(self) -> set[str]:
        """The clips whose first attempt passes."""
        keys = self._table.filter(pc.equal(self._table["status"], "pass"))["key"].to_pylist()
        return {"clip-" + key.removeprefix("quality-") for key in keys}

    def _words(self, clip_keys: list[str]) -> list[str]:
        return list(self._table["status"].take(self.find(pa.chunked_array([clip_keys], pa.string()))).to_pylist())

    def _row(self, clip_key: str, found: Record) -> Record:
        if found["key"] is None:
            return NO_VERDICT
        row: Record = NO_VERDICT | {"verdict": found["status"], "reasons": _reasons(found["reason"])}
        if "record" in found:
            record = json.loads(found["record"])
            verdict = verdict_of(record, self._settings)
            row |= {
                "score": verdict.score,
                "checks": list(verdict.checks),
                "metrics": json.dumps(record["metrics"], sort_keys=True),
            }
        climb = self._climbs.get(clip_key)
        if climb is not None:
            kept = _kept(climb)
            row |= {name: kept[name] for name in ("verdict", "score", "reasons")} | {"checks": kept.get("checks", [])}
            row |= {"metrics": json.dumps(kept["metrics"], sort_keys=True), "retry_gpu_s": climb["retry_gpu_s"]}
            attempts = {"chosen": climb["chosen"], "attempts": climb["attempts"]}
            row["attempts"] = json.dumps(attempts, ensure_ascii=False, sort_keys=True)
        return row


def _read(out: str, settings: QualitySettings, *, whole: bool, compact: bool) -> pa.Table:
    names = ("key", "status", "reason", "error_code", *(("record",) if whole else ()))
    compact_from = COMPACT_FROM if compact else None
    table = pa.concat_tables(read_tables(out, "done", "quality", names, compact_from=compact_from)).combine_chunks()
    if pc.all(pc.equal(pc.fill_null(table["error_code"], ""), _thresholds(settings)), min_count=0).as_py():
        return table
    if not whole:
        return _read(out, settings, whole=True, compact=False).drop_columns("record")
    again = [brief(json.loads(content), settings) for content in table["record"].to_pylist()]
    for name in ("status", "reason"):
        values = pa.array([one[name] for one in again], pa.string())
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table


def _kept(climb: Record) -> Record:
    kept: Record = climb["attempts"][climb["chosen"]]
    return kept


def _reasons(text: str | None) -> list[str]:
    return text.split(_BETWEEN) if text else []


def _thresholds(settings: QualitySettings) -> str:
    return storage.digest(settings.model_dump_json())
