"""Make previews that any browser plays: some seconds of a clip before, before with its mask, and after.

    previews/<k2>/<key>-before.mp4, -mask.mp4, -after.mp4       H.264, at most 480 px and 120 frames
    previews/<k2>/<key>-before.jpg, -mask.jpg, -after.jpg       one frame of them

Array suffixes: H height, W width, C = RGB, uint8. Existing previews are kept.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.run_plan import read_run
from vace_batch.manifest.uris import folder_of
from vace_batch.masks.store import FrameMask, MaskReader
from vace_batch.redact import redact
from vace_batch.report.rows import Clip, read_clips
from vace_batch.steps.clip_plan import CLIP_PLAN, ClipPlan
from vace_batch.storage import files as storage
from vace_batch.storage.roots import Roots
from vace_batch.video.probe import probe
from vace_batch.video.reader import read_frames
from vace_batch.video.scaling import shrink_to
from vace_batch.video.writer import write_clip

PREVIEW_PX = 480
MOST_FRAMES = 120
_LEAD_FRAMES = 12
_FARTHEST = 2_000
"""Frames decoded at most to reach the first change."""

_CRF = 25
_RATE = Fraction(25)
_URGENCY = {"fail": 0, "review": 1, None: 2, "pass": 3}

RgbFrame = NDArray[np.uint8]


def most_doubtful(out: str, most: int) -> frozenset[int]:
    """Select at most `most` finished clips by number, the worst verdicts first."""
    done = (clip for clip in read_clips(out) if clip.status == "done")
    ranked = ((_URGENCY.get(clip.result.get("verdict"), 2), clip.number) for clip in done)
    return frozenset(number for _, number in heapq.nsmallest(most, ranked))


class Previews:
    """Makes the previews of the `chosen` clips of `out`, in the report's folder `to`."""

    def __init__(self, out: str, to: str, chosen: frozenset[int]) -> None:
        run = read_run(out)
        self._ledger = Ledger(out)
        self._to = to
        self._chosen = chosen
        manifest = str(run["manifest"])
        self._roots = Roots.of([folder_of(manifest), out, *run.get("options", {}).get("allow_roots", ())])

    def __call__(self, clip: Clip) -> Mapping[str, Any] | None:
        """Name a chosen clip's preview files, relative to the report, or note the error; None for other clips."""
        if clip.number not in self._chosen:
            return None
        try:
            return self._make(clip)
        except (ClipError, OSError, ValueError) as error:
            return {"note": f"No preview: {redact(str(error))}"}

    def _make(self, clip: Clip) -> dict[str, Any]:
        record = self._ledger.prep(clip.prep_key)
        source = str(clip.job["video_uri"])
        if record is None or not self._roots.allow(source):
            raise ClipError("no_preview", "the source may not be read, or the clip's plan is gone")
        plan: ClipPlan = CLIP_PLAN.validate_python(record["plan"])
        start = _start(plan, self._ledger)
        key = storage.digest(str(clip.result["clip_key"]), str(clip.result.get("attempts")))[:20]
        stem = f"previews/{key[:2]}/{key}"
        with storage.local_path(source) as path:
            rate = probe(path).average_rate or _RATE
            if not self._exists(stem, "before"):
                self._write_before(stem, path, plan, start, rate)
        with storage.local_path(str(clip.result["output_uri"])) as path:
            if not self._exists(stem, "after"):
                self._write(stem, "after", _frames(path, start + plan.canvas.before), rate)
        preview: dict[str, Any] = {
            "rate": float(rate),
            "note": f"Preview from frame {start}, at most {MOST_FRAMES} frames",
        }
        for kind in ("before", "mask", "after"):
            if self._exists(stem, kind):
                preview |= {kind: f"{stem}-{kind}.mp4", f"{kind}_poster": f"{stem}-{kind}.jpg"}
        return preview

    def _exists(self, stem: str, kind: str) -> bool:
        return storage.exists(storage.join(self._to, f"{stem}-{kind}.jpg"))

    def _write_before(self, stem: str, path: str, plan: ClipPlan, start: int, rate: Fraction) -> None:
        """Write the source's preview, and the same with its masks where it has any."""
        frames = _frames(path, start)
        self._write(stem, "before", frames, rate)
        masks = _masks(plan, self._ledger, start, start + len(frames))
        if masks:
            tinted = [_tinted(frame, masks.get(index), plan) for index, frame in enumerate(frames)]
            self._write(stem, "mask", tinted, rate)

    def _write(self, stem: str, kind: str, frames: Sequence[RgbFrame], rate: Fraction) -> None:
        uri = storage.join(self._to, f"{stem}-{kind}")
        with storage.staging(uri + ".mp4", f"{uri}.draft.mp4") as target:
            write_clip(target, frames, rate=rate, crf=_CRF)
        poster = io.BytesIO()
        Image.fromarray(frames[len(frames) // 2]).save(poster, "jpeg", quality=85)
        storage.publish(uri + ".jpg", poster.getvalue())  # last: the poster marks the preview as complete


def _start(plan: ClipPlan, ledger: Ledger) -> int:
    """Choose the source frame that a preview begins with: a little before the first change."""
    if plan.masks is None:
        return 0
    with storage.open_read(ledger.absolute(plan.masks)) as file:
        first = min(MaskReader(file).boxes(), default=0) - plan.canvas.before
    return max(0, min(first - _LEAD_FRAMES, _FARTHEST, plan.num_frames - MOST_FRAMES))


def _frames(path: str, start: int) -> list[RgbFrame]:
    """Read small frames from `start` on, up to the video's end.

    Raises:
        ClipError: the video ends before `start`.
    """
    shown = shrink_to(probe(path).size, PREVIEW_PX)
    size = Size(max(shown.width // 2 * 2, 2), max(shown.height // 2 * 2, 2))
    frames = [frame.small(size) for frame in read_frames(path, start, start + MOST_FRAMES)]
    if not frames:
        raise ClipError("no_preview", f"no frame {start}")
    return frames


def _masks(plan: ClipPlan, ledger: Ledger, start: int, stop: int) -> dict[int, FrameMask]:
    """Read the masks of the source's frames start..stop-1, by offset from `start`."""
    if plan.masks is None:
        return {}
    lead = plan.canvas.before
    with storage.open_read(ledger.absolute(plan.masks)) as file:
        masks = MaskReader(file).get(start + lead, stop + lead)
    return {index - lead - start: mask for index, mask in masks.items()}


def _tinted(frame_HWC: RgbFrame, mask: FrameMask | None, plan: ClipPlan) -> RgbFrame:
    """Paint the mask orange, with a white edge for viewers who cannot see the colour."""
    if mask is None:
        return frame_HWC
    bits = mask.within(plan.canvas.source).view(np.uint8)
    rows = np.linspace(0, bits.shape[0] - 1, frame_HWC.shape[0]).round().astype(int)
    columns = np.linspace(0, bits.shape[1] - 1, frame_HWC.shape[1]).round().astype(int)
    small = bits[rows][:, columns].astype(np.bool_)
    tinted = frame_HWC.copy()
    tinted[small] = (tinted[small].astype(np.uint16) * 2 // 5 + _TINT).astype(np.uint8)
    inner = small.copy()
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        inner &= np.roll(small, shift, axis)
    tinted[small & ~inner] = 255
    return tinted


_TINT = np.array([145, 68, 10], np.uint16)
