"""Read the verdicts on finished clips from the ledger, for many clips at once.

A record has the metrics, and the verdict that the run's thresholds made of them. Where other thresholds count now, the
verdict is made again from the metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from vace_batch.ledger.records import BRIEF, COMPACT_FROM, read_records, read_tables
from vace_batch.ledger.schema import AttemptRecord, AttemptsRecord, QualityRecord, VerdictRow
from vace_batch.options import QualitySettings
from vace_batch.quality.verdict import Verdict, judge
from vace_batch.storage import files as storage

if TYPE_CHECKING:  # loads OpenCV, and the command line imports this module
    from vace_batch.quality.remedies import Attempt


def no_verdict() -> VerdictRow:
    """The verdict's columns of a clip that was not measured: the clip failed, or the run measures nothing."""
    return {
        "verdict": None,
        "score": None,
        "reasons": [],
        "checks": [],
        "metrics": None,
        "attempts": None,
        "retry_gpu_s": 0.0,
    }


def verdict_of(record: QualityRecord, settings: QualitySettings) -> Verdict:
    """Judge a clip's metrics; a clip that could not be measured is for review."""
    unmeasured = record.get("unmeasured")
    if unmeasured is not None:
        remedy = "; the next run measures it again" if record.get("measure_again") else ""
        return Verdict(verdict="review", score=1.0, reasons=(f"the clip could not be measured: {unmeasured}{remedy}",))
    return judge(record["metrics"], record["checks"], settings, record["broken"], record.get("doubts", ()))


def with_verdict(record: QualityRecord, settings: QualitySettings) -> QualityRecord:
    """Add the verdict, its reasons and the thresholds' digest, which are read without the rest of the record."""
    verdict = verdict_of(record, settings)
    return {
        **record,
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "thresholds": _thresholds(settings),
    }


class Verdicts:
    """The verdicts of an output folder; with `whole`, scores and metrics too."""

    def __init__(self, out: str, settings: QualitySettings, *, whole: bool = False, compact: bool = False) -> None:
        self._settings = settings
        self._table = _read(out, settings, whole=whole, compact=compact)
        self._attempts: dict[str, AttemptsRecord] = {}
        for _, content in read_records(out, "done", "attempts"):
            record = cast(AttemptsRecord, content)
            earlier = self._attempts.get(record["clip_key"])
            if earlier is None or record["finished_at"] >= earlier["finished_at"]:
                self._attempts[record["clip_key"]] = record

    def find(self, clip_keys: pa.ChunkedArray) -> pa.ChunkedArray:
        """Find each clip's index for `rows`; null for a clip that was not measured."""
        quality_keys = pc.replace_substring(clip_keys, "clip-", "quality-", max_replacements=1)
        return pc.index_in(quality_keys, self._table["key"].combine_chunks())

    def counts(self, clip_keys: pa.ChunkedArray) -> dict[str, int]:
        """Count the clips by verdict; of several attempts, the chosen one counts."""
        verdicts = self._table["verdict"].take(self.find(clip_keys).drop_null())
        counts = {str(item["values"]): int(item["counts"]) for item in pc.value_counts(verdicts).to_pylist()}
        retried = [key for key in clip_keys.to_pylist() if key in self._attempts]
        places = self.find(pa.chunked_array([retried], pa.string()))
        for key, first in zip(retried, self._table["verdict"].take(places).to_pylist(), strict=True):
            chosen = _chosen(self._attempts[key])["verdict"]
            counts[first] -= 1
            counts[chosen] = counts.get(chosen, 0) + 1
        return {verdict: count for verdict, count in counts.items() if count}

    def further_gpu_s(self, clip_keys: pa.ChunkedArray) -> float:
        """Sum the GPU-seconds of the clips' attempts after the first."""
        if not self._attempts:
            return 0.0
        records = [self._attempts[key] for key in clip_keys.to_pylist() if key in self._attempts]
        return round(sum(record["retry_gpu_s"] for record in records), 3)

    def rows(self, clip_keys: list[str], indices: pa.ChunkedArray) -> list[VerdictRow]:
        """Make the verdict's columns of each clip; of several attempts, the chosen attempt's columns."""
        records = self._table.take(indices).to_pylist()
        return [self._row(key, record) for key, record in zip(clip_keys, records, strict=True)]

    def passing(self) -> set[str]:
        """List the clips whose first attempt passes."""
        keys = self._table.filter(pc.equal(self._table["verdict"], "pass"))["key"].to_pylist()
        return {"clip-" + key.removeprefix("quality-") for key in keys}

    def _row(self, clip_key: str, columns: Mapping[str, Any]) -> VerdictRow:
        row = no_verdict()
        if columns["key"] is None:
            return row
        row["verdict"] = columns["verdict"]
        row["reasons"] = columns["reasons"]
        if "record" in columns:
            record: QualityRecord = json.loads(columns["record"])
            verdict = verdict_of(record, self._settings)
            row["score"] = verdict.score
            row["checks"] = list(verdict.checks)
            row["metrics"] = json.dumps(record["metrics"], sort_keys=True)
        if clip_key in self._attempts:
            _put_attempts(row, self._attempts[clip_key])
        return row


def attempt_record(attempt: Attempt) -> AttemptRecord:
    """Make the ledger's record of one attempt."""
    return {
        "remedy": attempt.remedy,
        "model": attempt.model,
        "clip_key": attempt.clip_key,
        "output": attempt.output,
        "verdict": attempt.verdict,
        "score": None if attempt.error else attempt.score,
        "reasons": list(attempt.reasons),
        "checks": list(attempt.checks),
        "windows": attempt.windows,
        "gpu_s": attempt.gpu_s,
        "metrics": dict(attempt.metrics),
        "error": attempt.error,
        "settings": attempt.settings,
    }


def _put_attempts(row: VerdictRow, record: AttemptsRecord) -> None:
    """Overwrite the first attempt's columns by the chosen attempt's."""
    chosen = _chosen(record)
    row["verdict"] = chosen["verdict"]
    row["score"] = chosen["score"]
    row["reasons"] = chosen["reasons"]
    row["checks"] = chosen["checks"]
    row["metrics"] = json.dumps(chosen["metrics"], sort_keys=True)
    row["retry_gpu_s"] = record["retry_gpu_s"]
    attempts = {"chosen": record["chosen"], "attempts": record["attempts"]}
    row["attempts"] = json.dumps(attempts, ensure_ascii=False, sort_keys=True)


def _chosen(record: AttemptsRecord) -> AttemptRecord:
    return record["attempts"][record["chosen"]]


def _read(out: str, settings: QualitySettings, *, whole: bool, compact: bool) -> pa.Table:
    columns = ["key", *BRIEF["quality"], *(["record"] if whole else [])]
    compact_from = COMPACT_FROM if compact else None
    table = pa.concat_tables(read_tables(out, "done", "quality", columns, compact_from=compact_from)).combine_chunks()
    same = pc.equal(pc.fill_null(table["thresholds"], ""), _thresholds(settings))
    if pc.all(same, min_count=0).as_py():
        return table
    if not whole:
        return _read(out, settings, whole=True, compact=False).drop_columns("record")
    verdicts = [verdict_of(json.loads(content), settings) for content in table["record"].to_pylist()]
    columns_again = {
        "verdict": pa.array([verdict.verdict for verdict in verdicts], pa.string()),
        "reasons": pa.array([list(verdict.reasons) for verdict in verdicts], pa.list_(pa.string())),
    }
    for name, values in columns_again.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table


def _thresholds(settings: QualitySettings) -> str:
    return storage.digest(settings.model_dump_json(exclude={"untouched"}))
