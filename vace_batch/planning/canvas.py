"""The stage: canvas and timeline that a clip is made on, and what of it is new.

Most tasks work on the source's own frames. Outpainting grows the canvas, extension the timeline; from the plan on,
frames count from the stage's first and boxes are in the stage's pixels, and only who reads the source asks where it
lies. Everything that is new is a mask: nothing later knows why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vace_batch.errors import ClipError
from vace_batch.geometry import TOKEN_PX, Box, Size, align_up, legal_num_frames
from vace_batch.manifest.job import Expand, Job
from vace_batch.masks.store import FrameMask, box_mask, make_mask, merge_masks
from vace_batch.planning.windows import Limits, Shot
from vace_batch.video.canvas_frames import Canvas

DEFAULT_EXPAND = Expand(left=0.25, right=0.25, up=0.25, down=0.25)
_DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`size` and where the `source` picture lies on it; `before` and `after` are frames added round the source's.

    `kept` is what of the source's picture is known on every frame.
    """

    size: Size
    source: Box
    kept: Box
    before: int = 0
    after: int = 0

    @property
    def canvas(self) -> Canvas | None:
        """How the output is larger or longer than the source; None where it is neither."""
        if not self.grows:
            return None
        return Canvas(size=self.size, source=self.source, before=self.before, after=self.after)

    @property
    def grows(self) -> bool:
        """Whether the output is larger or longer than the source."""
        return self.size != self.source.size or bool(self.before or self.after)


def stage_of(job: Job, size: Size, rate: Fraction | None) -> Stage:
    """The stage of a job on a source of `size`, at `rate` frames a second.

    A canvas grows by whole tokens, so that the source keeps its chroma samples and its place in the model's grid.
    """
    expand = job.expand
    if expand is None and (job.task == "outpainting" or job.compose == "expand"):
        expand = DEFAULT_EXPAND
    box = Box(0, 0, size.width, size.height)
    before = after = 0
    if job.extend is not None and job.extend.seconds is not None:
        added = max(1, round(job.extend.seconds * (rate or _DEFAULT_RATE)))
        before, after = (added, 0) if job.extend.mode == "last" else (0, added)
    if expand is None:
        return Stage(size=size, source=box, kept=box, before=before, after=after)
    if expand.inner:
        left, top = round(expand.left * size.width), round(expand.up * size.height)
        right, bottom = size.width - round(expand.right * size.width), size.height - round(expand.down * size.height)
        kept = Box(left, top, max(1, right - left), max(1, bottom - top))
        return Stage(size=size, source=box, kept=kept, before=before, after=after)
    left, right = (_added(share, size.width) for share in (expand.left, expand.right))
    up, down = (_added(share, size.height) for share in (expand.up, expand.down))
    source = box.shift(left, up)
    canvas = Size(size.width + left + right, size.height + up + down)
    return Stage(size=canvas, source=source, kept=source, before=before, after=after)


def staged_shots(cuts: Sequence[int], num_frames: int, stage: Stage) -> tuple[Shot, ...]:
    """Shots of the source on the stage's timeline; added frames belong to the shot that they lead up to or go on."""
    edges = [0, *(cut + stage.before for cut in sorted(cuts)), num_frames + stage.before + stage.after]
    return tuple(Shot(start=a, stop=b) for a, b in zip(edges, edges[1:], strict=False))


def new_frames(job: Job, stage: Stage, num_frames: int, frame_range: tuple[int, int]) -> range:
    """The frames of an extension that are made anew, on the stage's timeline; empty for other jobs.

    Added ones; or the source's `frame_range`, less the first or last frame of the video, which is known.
    """
    if job.extend is None:
        return range(0)
    if job.extend.seconds is not None:
        start = 0 if stage.before else num_frames
        return range(start, start + stage.before + stage.after)
    start, stop = frame_range
    if job.extend.mode in ("first", "firstlast"):
        start = max(start, 1)
    if job.extend.mode in ("last", "firstlast"):
        stop = min(stop, num_frames - 1)
    if start >= stop:
        raise ClipError("empty_range", "extend: no frame is left to be made anew beside those that are known")
    return range(start, stop)


def known_context(job: Job, new: range, shots: Sequence[Shot], limits: Limits) -> tuple[range, range]:
    """The known frames before and after the new ones that their window shows.

    Raises:
        ClipError: `extension_over_cut`, `extension_too_long`, `no_context`.
    """
    assert job.extend is not None
    shot = next(shot for shot in shots if shot.start <= new.start < shot.stop)
    if new.stop > shot.stop:
        reason = f"extend: frames {new.start}..{new.stop - 1} cross the cut at {shot.stop}; extend shot by shot"
        raise ClipError("extension_over_cut", reason)
    first, last = (job.extend.mode in (mode, "firstlast") for mode in ("first", "last"))
    room_before, room_after = (new.start - shot.start) * first, (shot.stop - new.stop) * last
    if (first and not room_before) or (last and not room_after):
        raise ClipError("no_context", "extend: the shot holds no known frame beside the new ones")
    sides = first + last
    if len(new) + sides > limits.max_frames:
        reason = f"extend: {len(new)} new frames and {sides} known; a window of this model takes {limits.max_frames}"
        raise ClipError("extension_too_long", reason)
    spare = limits.max_frames - len(new)
    if job.extend.unit == "frame":
        spare = min(spare, legal_num_frames(len(new) + sides) - len(new))
    before = min(room_before, spare // sides if room_after >= spare // sides else spare - room_after)
    after = min(room_after, spare - before)
    excess = (before + after + len(new) - 1) % 4  # of what no window length holds without repeated frames
    cut = min(excess, max(before - first, 0))
    before, after = before - cut, max(after - (excess - cut), int(last))
    return range(new.start - before, new.start), range(new.stop, new.stop + after)


def staged_masks(job: Job, stage: Stage, found: Iterable[FrameMask], frames: range, new: range) -> Iterator[FrameMask]:
    """What is generated on each frame of the stage: `found` masks of the source, what the canvas lacks, new frames.

    `frames` are those of the source that the job covers, on the stage's timeline.
    """
    outside = _outside(stage)
    whole = box_mask(0, Box(0, 0, stage.size.width, stage.size.height))
    only_new = job.processes == ("extension", "repaint")
    masks = iter(found)
    upcoming = next(masks, None)
    for index in range(min([*frames[:1], *new[:1]]), max(frames.stop, new.stop)):
        parts = []
        if upcoming is not None and upcoming.index + stage.before == index:
            box = upcoming.box.shift(stage.source.x, stage.source.y)
            parts = [] if only_new and index not in new else [FrameMask(index=index, box=box, bits=upcoming.bits)]
            upcoming = next(masks, None)
        if index in new and not only_new:
            parts = [whole]
        elif outside is not None and index in frames:
            parts.append(outside)
        mask = merge_masks(parts)
        if mask is not None:
            yield FrameMask(index=index, box=mask.box, bits=mask.bits)


def _outside(stage: Stage) -> FrameMask | None:
    """All of the canvas but what is kept of the source."""
    bits = np.ones((stage.size.height, stage.size.width), np.bool_)
    bits[stage.kept.slices] = False
    return make_mask(0, bits)


def _added(share: float, side: int) -> int:
    return align_up(math.ceil(share * side - 1e-9), TOKEN_PX)
