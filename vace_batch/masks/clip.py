"""The one way to a clip's masks: find by boxes, mask file, YOLO or SAM, then refine and protect, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vace_batch.errors import ClipError
from vace_batch.geometry import TOKEN_PX, Box, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.detectors.overlay import OVERLAY, find_overlay
from vace_batch.masks.detectors.text import TEXT
from vace_batch.masks.finder import Found, Notes, Watcher, points_by_object
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.keyframes import Track, tracks
from vace_batch.masks.models import MaskModels, checked_detector, text_finder
from vace_batch.masks.refine import dilation_of, refine, split_parts, subtract
from vace_batch.masks.segmenters.sam import Segmenter
from vace_batch.masks.segmenters.sam2_memory import Mark, Points
from vace_batch.masks.store import FrameMask, box_mask, merge_masks
from vace_batch.masks.tracking.memory import Followed
from vace_batch.video.frame import Frame
from vace_batch.video.reader import read_frames


def clip_masks(
    job: Job,
    *,
    path: str,
    size: Size,
    num_frames: int,
    models: MaskModels,
    cuts: Sequence[int] = (),
    frame_range: tuple[int, int] | None = None,
    min_px: int = TOKEN_PX,
    notes: Notes | None = None,
    guard: Callable[[FrameMask], object] | None = None,
    pts: Sequence[int] | None = None,
) -> Iterator[FrameMask]:
    """What to replace in each frame of `frame_range` (start, stop) of the local video at `path`, in order.

    Boxes, mask file, detected targets and prompted objects of the job are joined; each object is shaped and dilated by
    its own size, parts thinner than `min_px` grow, and protected pixels are taken out last. Frames without a mask are
    left out. `job.mask_uri` and `job.protect.mask_uri` must be local paths. `cuts` are the first frames of later shots;
    an object marked by points is followed from them to the next cut; by a segmenter that has a memory over all of its
    shot, as is one marked by a box on a single frame. `notes` takes what is worth saying, `guard` what is protected in
    each frame. With `pts`, the frames' time stamps, what is read twice is not decoded from the start. Of a job that
    only protects, all else is replaced.

    Raises:
        ClipError: `no_mask_source`, and what boxes, mask files, weights, refining and reading raise; at any frame.
    """
    if not job.has_mask_source and not job.protects:
        raise ClipError("no_mask_source", "expected boxes, mask_uri, targets or points; the job has none of them")
    start, stop = frame_range or (0, num_frames)
    finder = _Finder.of(job, size, num_frames, (start, stop), frozenset(cuts), models, notes or Notes())
    if finder.watcher is not None and OVERLAY in (
        *job.targets,
        *job.protect.targets,
    ):  # known only when all has been seen
        finder.watcher.overlay = find_overlay(read_frames(path, start, stop), stop - start, size)
    dilation = dilation_of(job)
    last_parts: list[FrameMask] = []
    last_mask: FrameMask | None = None
    for found in finder.watched(path, cuts, (start, stop), pts):
        if notes is not None:
            notes.see(found)
        parts, protected = finder.at(found)
        if guard is not None and protected is not None:
            guard(protected)
        if not _same(parts, last_parts):
            last_mask = refine(parts, size, shape=job.mask_shape, dilation=dilation, min_px=min_px)
            last_parts = parts
        mask = subtract(last_mask, protected)
        if mask is not None:
            yield mask if mask.index == found.index else replace(mask, index=found.index)
    finder.finish()
    if notes is not None and finder.watcher is not None:
        for word in finder.watcher.words():
            notes.say(word)


def _same(parts: list[FrameMask], others: list[FrameMask]) -> bool:
    """Equal but for the frame: what is static is refined once."""
    return len(parts) == len(others) and all(
        one.box == other.box and (one.bits is other.bits or np.array_equal(one.bits, other.bits))
        for one, other in zip(parts, others, strict=True)
    )


class _Stored:
    """Walks a mask file in step with the frames."""

    def __init__(self, masks: Iterator[FrameMask]) -> None:
        self._masks = masks
        self._next = next(masks, None)

    def at(self, index: int) -> FrameMask | None:
        while self._next is not None and self._next.index < index:
            self._next = next(self._masks, None)
        return self._next if self._next is not None and self._next.index == index else None

    def finish(self) -> None:
        """Read to the end, where a file of the wrong length is found out."""
        for _ in self._masks:
            pass


@dataclass(slots=True, kw_only=True)
class _Finder:
    """What one clip's job selects and protects in a frame."""

    size: Size
    whole: bool
    selected: tuple[Track, ...]
    protected: tuple[Track, ...]
    file: _Stored | None
    protect_file: _Stored | None
    watcher: Watcher | None

    @staticmethod
    def of(
        job: Job,
        size: Size,
        num_frames: int,
        frame_range: tuple[int, int],
        cuts: frozenset[int],
        models: MaskModels,
        notes: Notes,
    ) -> _Finder:
        """Check all that can be checked before a frame is decoded."""

        def stored(uri: str | None) -> _Stored | None:
            return None if uri is None else _Stored(read_masks(uri, size, num_frames, *frame_range))

        points = points_by_object(job.points, size, frame_range)
        selected = tracks(job.boxes, size, num_frames, cuts)
        watcher = None
        if job.needs_pixels:
            segmenter = _segmenter_or_word(job, models, notes)
            followed, boxed = _followed(selected, points, cuts, size, segmenter)
            if followed and segmenter is not None and segmenter.memory is None:
                notes.say("no_memory: SAM 2 remembers what points marked; it is followed by its last outline")
            watcher = Watcher(
                job=job,
                size=size,
                detector=checked_detector(job, models),
                segmenter=segmenter,
                text=text_finder() if TEXT in (*job.targets, *job.protect.targets) else None,
                confidence=models.confidence,
                every=models.every,
                tracker=models.tracker,
                boxes=boxed if segmenter is not None else (),
                followed=followed,
                points=points,
            )
        return _Finder(
            size=size,
            whole=not job.has_mask_source,
            selected=() if watcher is not None and watcher.segmenter is not None else selected,
            protected=tracks(job.protect.boxes, size, num_frames, cuts),
            file=stored(job.mask_uri),
            protect_file=stored(job.protect.mask_uri),
            watcher=watcher,
        )

    def watched(
        self, path: str, cuts: Sequence[int], frame_range: tuple[int, int], pts: Sequence[int] | None
    ) -> Iterator[Found]:
        """What the pixels hold, frame by frame; nothing where nobody looks at them."""
        if self.watcher is None:
            return (Found(index=index) for index in range(*frame_range))

        def again(start: int, stop: int) -> Iterator[Frame]:
            return read_frames(path, start, stop, start_pts=None if pts is None else int(pts[start]))

        self.watcher.read = again
        return self.watcher.watch(read_frames(path, *frame_range), cuts, frame_range)

    def at(self, found: Found) -> tuple[list[FrameMask], FrameMask | None]:
        """The selected objects' masks, and the union of what is protected."""
        index, parts, guards = found.index, list(found.selected), list(found.guarded)
        if self.whole:
            parts.append(box_mask(index, Box(0, 0, self.size.width, self.size.height)))
        parts += [box_mask(index, box) for track in self.selected if (box := track.at(index, self.size))]
        guards += [box_mask(index, box) for track in self.protected if (box := track.at(index, self.size))]
        if self.file is not None and (stored := self.file.at(index)):
            parts += split_parts(stored)
        if self.protect_file is not None and (stored := self.protect_file.at(index)):
            guards.append(stored)
        return parts, merge_masks(guards)

    def finish(self) -> None:
        for file in (self.file, self.protect_file):
            if file is not None:
                file.finish()


def _followed(
    boxed: Sequence[Track],
    points: Mapping[int, Mapping[int, Points]],
    cuts: frozenset[int],
    size: Size,
    segmenter: Segmenter | None,
) -> tuple[list[Followed], list[Track]]:
    """Objects that are followed from where they are marked, and those that are prompted by a box on each frame.

    A memory needs boxes only where they were drawn; one without a frame holds on every frame all the same.
    """
    remembers = segmenter is not None and segmenter.memory is not None
    keyed = {track.object_id: track for track in boxed if remembers and track.span is not None}
    still = [track for track in boxed if not (remembers and track.span is not None)]
    made = []
    for number in sorted({*keyed, *points} - ({track.object_id for track in still} - {*keyed})):
        track, marked = keyed.get(number), points.get(number, {})
        drawn = {key.frame: track.at(key.frame, size) for key in track.keys if key.frame is not None} if track else {}
        marks = {index: Mark(box=drawn.get(index), points=marked.get(index, ())) for index in {*marked, *drawn}}
        made.append(Followed(marks=marks, cuts=cuts, track=track))
    return made, still


def _segmenter_or_word(job: Job, models: MaskModels, notes: Notes) -> Segmenter | None:
    """The segmenter that the job needs. Boxes and targets can do without one, points cannot.

    Raises:
        ClipError: as `MaskModels.load_segmenter`.
    """
    if not (job.segmenter or job.points):
        return None
    try:
        return models.load_segmenter(job.segmenter)
    except ClipError as error:
        if job.points or error.code not in ("weights_not_found", "bad_weights"):
            raise
        notes.say(f"no_segmenter: masks are those of the detector or the boxes ({error.code})")
        return None
