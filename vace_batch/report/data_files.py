"""Make the page's data: small scripts, since a page that is opened from a file may load scripts but not JSON.

    data/meta.js            counts, names of columns
    data/index-0000.js      10,000 rows by column, for search, sorting and filters
    data/clips-0000.js      1,000 clips with everything that their view shows

Each script calls `vaceBatchData(kind, number, text)`; `text` is JSON that the page parses, so that text of a manifest
or a reason is a value and never code or markup. The scripts are ASCII without <, > and &.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vace_batch.redact import redact
from vace_batch.report.rows import Clip, manifest_row
from vace_batch.report.tally import ended_s

INDEX_ROWS = 10_000
PAGE_ROWS = 1_000
_MAX_TEXT = 300
_MAX_WINDOWS = 200
_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})

INDEX = ("job_id", "status", "verdict", "checks", "task", "profile", "reason", "source", "asked")
"""Text columns of the index, which the search reads."""

INDEX_NUMBERS = ("gpu_s", "seconds", "windows", "attempts", "ended_s")


def script(kind: str, number: int, value: object) -> bytes:
    """Write the script that hands `value` to the page."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return f"vaceBatchData({json.dumps(kind)},{number},{json.dumps(text).translate(_ESCAPES)});\n".encode("ascii")


def index_row(clip: Clip) -> dict[str, Any]:
    """Make a clip's row of the index, which the table shows and searches."""
    asked = " ".join(filter(None, (_text(clip.job.get("prompt")), *(clip.job.get("targets") or ()))))
    ended = ended_s(clip)
    return {
        "job_id": clip.job_id,
        "status": clip.status,
        "verdict": _text(clip.result.get("verdict")),
        "task": _text(clip.job.get("task")),
        "profile": clip.profile,
        "reason": redact("; ".join(clip.reasons))[:_MAX_TEXT],
        "source": redact(_text(clip.job.get("video_uri"))),
        "asked": asked[:_MAX_TEXT],
        "checks": " ".join(clip.result.get("checks") or ()),
        "gpu_s": round(clip.gpu_s, 2),
        "seconds": round(clip.result.get("seconds") or 0.0, 2),
        "windows": clip.result.get("windows") or 0,
        "attempts": len(clip.attempts.get("attempts", ())) or int(clip.status == "done"),
        "ended_s": None if ended is None else int(ended),
    }


def _text(value: object) -> str:
    """Return a value as text, a missing one as an empty text."""
    return str(value or "")


def by_column(rows: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    """Turn rows into columns; repeated text becomes a list of values and each row's index into the list."""
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in INDEX_NUMBERS}
    for name in INDEX:
        values = [row[name] for row in rows]
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        if len(numbers) * 2 > len(values):
            columns[name] = values
        else:
            columns[name] = {"values": list(numbers), "rows": [numbers[value] for value in values]}
    return columns


def clip_view(clip: Clip, links: Mapping[str, str | None], preview: Mapping[str, object] | None) -> dict[str, Any]:
    """Collect everything that a clip's view shows; a link is None where a browser cannot follow."""
    result = clip.result
    rows = result.get("window_rows") or []
    view = {
        "number": clip.number,
        "job_id": clip.job_id,
        "status": clip.status,
        "verdict": result.get("verdict"),
        "reasons": clip.reasons,
        "notes": list(result.get("notes") or ()),
        "metrics": clip.metrics,
        "attempts": clip.attempts,
        "runs": result.get("runs"),
        "settings": clip.settings,
        "windows": result.get("windows") or 0,
        "window_rows": [{**row, "seed": str(row["seed"])} for row in rows[:_MAX_WINDOWS]],  # beyond 2**53
        "seconds": result.get("seconds"),
        "gpu_s": round(clip.gpu_s, 3),
        "predicted_gpu_s": result.get("predicted_gpu_s"),
        "checks": list(result.get("checks") or ()),
        "copied_frames": result.get("copied_frames"),
        "finished_at": result.get("finished_at"),
        "source_uri": clip.job.get("video_uri"),
        "output_uri": result.get("output_uri"),
        "masks_uri": result.get("masks"),
        "row": manifest_row(clip.job),
        "links": dict(links),
        "preview": preview,
    }
    safe: dict[str, Any] = _redacted(view)
    return safe


def _redacted(value: object) -> Any:
    """Remove credentials from all texts, and make numbers JSON-able."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    if isinstance(value, Mapping):
        return {name: _redacted(one) for name, one in value.items()}
    return [_redacted(one) for one in value] if isinstance(value, list) else value


class Buffer:
    """Gathers rows and returns them in lists of `size`, which bounds the rows in memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.number = 0
        self._rows: list[Any] = []

    def add(self, row: object) -> Iterator[tuple[int, list[Any]]]:
        """Add a row; return the number and rows of the file that the row fills."""
        self._rows.append(row)
        if len(self._rows) == self.size:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[int, list[Any]]]:
        """Return the number and rows of the last file, if it has any."""
        if self._rows:
            rows = self._rows
            self._rows = []
            yield self.number, rows
            self.number += 1
