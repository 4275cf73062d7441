"""Draw a PNG that shows clips before and after, one row a clip.

Array suffixes: H height, W width, 3 = RGB, uint8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vace_batch.ledger.summary import Summary
from vace_batch.manifest.job import Job
from vace_batch.video.probe import probe
from vace_batch.video.shots import scan
from vace_batch.video.thumbnails import sample_frames

RgbFrame = npt.NDArray[np.uint8]

SMALL_MODEL = (
    "Generated pixels come from the embedded model: tiny, soft, and shown where the model does well. The rest is real."
)
THUMB_WIDTH_PX = 240
_GAP_PX = 6
_MARGIN_PX = 28
_LABEL_PX = 46
_SIDE_PX = 62
_TITLE_PX = 74
_PAPER = "#15181d"
_INK = "#f2f4f7"
_FAINT = "#98a2b3"
_BEFORE = "#7cc4ff"
_AFTER = "#7ee2a8"


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One clip: the same frames before and after, each (H, W, 3); an empty `after` means a failed clip.

    `share` is the width before, as a share of the width after.
    """

    label: str
    note: str = ""
    share: float = 1.0
    before: Sequence[RgbFrame]
    after: Sequence[RgbFrame]

    def __post_init__(self) -> None:
        if not self.before:
            raise ValueError(f"{self.label}: expected at least one frame before, got none")
        if self.after and len(self.after) != len(self.before):
            raise ValueError(
                f"{self.label}: expected {len(self.before)} frames after, as before, got {len(self.after)}"
            )


def contact_sheet(
    rows: Sequence[SheetRow], path: str | Path, *, title: str = "vace-batch: before and after", note: str = ""
) -> Path:
    """Draw `rows` below each other into the PNG `path`; return the path.

    Raises:
        ValueError: `rows` is empty.
    """
    if not rows:
        raise ValueError("contact sheet: expected at least one row, got none")
    strips = [(row, _thumbs(row.before, row.share), _thumbs(row.after)) for row in rows]
    columns = max(len(row.before) for row in rows)
    width = 2 * _MARGIN_PX + _SIDE_PX + columns * (THUMB_WIDTH_PX + _GAP_PX) - _GAP_PX
    height = _TITLE_PX + sum(_row_height(before) for _, before, _ in strips) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 20), title, _INK, font=ImageFont.load_default(26))
    if note:
        draw.text((_MARGIN_PX, 52), note, _FAINT, font=ImageFont.load_default(15))
    top = _TITLE_PX
    for row, before, after in strips:
        _draw_row(sheet, draw, top, row, before, after)
        top += _row_height(before)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(target.name + ".partial")
    sheet.save(staged, format="PNG", optimize=True)
    staged.rename(target)
    return target


def write_sheet(
    jobs: Iterable[Job],
    summary: Summary,
    path: str | Path,
    *,
    captions: Mapping[str, str] | None = None,
    columns: int = 5,
    note: str = SMALL_MODEL,
) -> Path:
    """Draw the before/after sheet of a run with local videos into the PNG `path`.

    `captions` are by job id; a job without one has its task as caption.

    Raises:
        ClipError: a source cannot be read.
        ValueError: `jobs` is empty.
    """
    outcomes = {row["job_id"]: row for row in summary.jobs}
    captions = captions or {}
    rows = [_row_of(job, outcomes.get(job.job_id, {}), captions.get(job.job_id, job.task), columns) for job in jobs]
    return contact_sheet(rows, path, note=note)


def _row_of(job: Job, outcome: Mapping[str, object], caption: str, columns: int) -> SheetRow:
    indices = evenly_spaced(scan(job.video_uri).num_frames, columns)
    output = outcome.get("output_uri")
    notes = [caption, str(outcome.get("status", "not run"))]
    if outcome.get("reason"):
        notes.append(str(outcome["reason"]))
    if outcome.get("verdict"):
        notes.append(f"verdict {outcome['verdict']}")
    return SheetRow(
        label=job.job_id,
        note=", ".join(notes),
        share=min(1.0, probe(job.video_uri).size.width / probe(str(output)).size.width) if output else 1.0,
        before=sample_frames(job.video_uri, indices, THUMB_WIDTH_PX),
        after=sample_frames(str(output), indices, THUMB_WIDTH_PX) if output else [],
    )


def evenly_spaced(num_frames: int, count: int) -> list[int]:
    """Spread at most `count` frame indices over a clip, away from its very first and last frame.

    Raises:
        ValueError: the clip has no frame, or `count` is 0.
    """
    if num_frames < 1 or count < 1:
        raise ValueError(f"frames for a sheet: expected at least 1 of at least 1, got {count} of {num_frames}")
    count = min(num_frames, count)
    return [(2 * step + 1) * num_frames // (2 * count) for step in range(count)]


def _row_height(thumbs: Sequence[Image.Image]) -> int:
    return _LABEL_PX + 2 * (thumbs[0].height + _GAP_PX)


def _thumbs(frames: Sequence[RgbFrame], share: float = 1.0) -> list[Image.Image]:
    """Resize frames to `share` of the thumbnails' width, all to the first frame's height."""
    if not frames:
        return []
    width = max(1, round(THUMB_WIDTH_PX * share))
    height = max(1, round(frames[0].shape[0] * width / frames[0].shape[1]))
    return [Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in frames]


def _draw_row(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    top: int,
    row: SheetRow,
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
) -> None:
    label = ImageFont.load_default(18)
    draw.text((_MARGIN_PX, top + 14), row.label, _INK, font=label)
    if row.note:
        beside = _MARGIN_PX + draw.textlength(row.label, font=label) + 14
        draw.text((beside, top + 17), row.note, _FAINT, font=ImageFont.load_default(15))
    left = _MARGIN_PX + _SIDE_PX
    step = before[0].height + _GAP_PX
    for side, colour, strip, y in (
        ("before", _BEFORE, before, top + _LABEL_PX),
        ("after", _AFTER, after, top + _LABEL_PX + step),
    ):
        draw.text((_MARGIN_PX, y + before[0].height // 2 - 9), side, colour, font=ImageFont.load_default(15))
        for index, thumb in enumerate(strip):
            sheet.paste(thumb, (left + index * (THUMB_WIDTH_PX + _GAP_PX) + (THUMB_WIDTH_PX - thumb.width) // 2, y))
        if not strip:
            draw.text((left, y + before[0].height // 2 - 9), "no result", _FAINT, font=ImageFont.load_default(15))
