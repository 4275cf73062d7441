"""Make a clip's masks frame by frame: boxes, mask file, YOLO, SAM; then refine and protect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.detectors.overlay import OVERLAY, find_overlay
from vace_batch.masks.detectors.text import TEXT
from vace_batch.masks.finder import ObjectFinder
from vace_batch.masks.import_files import read_masks
from vace_batch.masks.keyframes import BoxTrack, PointPrompts, box_tracks, points_by_object
from vace_batch.masks.levels import MOST_COVERED, Coverage, MaskLevels
from vace_batch.masks.models import MaskModels, checked_detector, text_finder
from vace_batch.masks.notes import Fallbacks, FrameObjects, Notes
from vace_batch.masks.refine import refine, split_parts, subtract
from vace_batch.masks.segmenters.sam import Segmenter
from vace_batch.masks.segmenters.sam2_memory import Mark
from vace_batch.masks.store import FrameMask, box_mask, merge_masks
from vace_batch.masks.tracking.memory import MarkedObject
from vace_batch.storage.node_cache import local_file
from vace_batch.video.frame import Frame
from vace_batch.video.reader import read_frames
from vace_batch.video.shots import Scan


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRequest:
    """A request for one clip's masks: the job, and the local video at `path` with its display `size` and its `scan`.

    `frame_range` is (start, stop). `models` None forbids looking at pixels: a job that needs pixels then masks whole
    frames. `fingerprints` holds the versions of the job's mask files, by column. `notes` is filled while masks are
    made. Parts of a mask thinner than `min_px` grow; 1 leaves that to the windows, which know the model's scale. A scan
    without time stamps (`pts` empty) makes a second reading of frames decode from the clip's start.
    """

    job: Job
    path: str
    size: Size
    scan: Scan
    frame_range: tuple[int, int]
    models: MaskModels | None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    min_px: int = 1


def clip_masks(request: MaskRequest, guard: Callable[[FrameMask], object] | None = None) -> Iterator[FrameMask]:
    """Yield the mask of each frame in the request's range, in order; frames without a mask are left out.

    The masks of boxes, mask file, detected targets and prompted objects are joined. Each object is shaped and dilated
    by its own size, thin parts grow, and protected pixels are subtracted last. An object marked by points is followed
    to the next cut; a segmenter with a memory follows an object over its whole shot, also one marked by a box on a
    single frame. `guard` receives the protected pixels of each frame. If a job only protects, everything else is
    replaced.

    Raises:
        ClipError: `no_mask_source`, and errors of boxes, mask files, weights, refining and reading; at any frame.
    """
    if not request.job.has_mask_source and not request.job.protects:
        raise ClipError("no_mask_source", "expected boxes, mask_uri, targets or points; the job has no mask source")
    if request.models is None and request.job.needs_pixels:
        yield from whole_frames(request)
        return
    with contextlib.ExitStack() as stack:
        job = _with_local_files(request.job, request.fingerprints, stack)
        yield from _refined_masks(replace(request, job=job), guard)


def whole_frames(request: MaskRequest) -> Iterator[FrameMask]:
    """Yield a mask of the whole frame for every frame of the request."""
    box = Box(0, 0, request.size.width, request.size.height)
    return (box_mask(index, box) for index in range(*request.frame_range))


def _with_local_files(job: Job, fingerprints: Mapping[str, str], stack: contextlib.ExitStack) -> Job:
    """Replace the job's mask URIs by local files, which `stack` releases."""
    if job.mask_uri is not None:
        job = replace(job, mask_uri=stack.enter_context(local_file(job.mask_uri, "mask_uri", fingerprints)))
    if job.protect.mask_uri is not None:
        path = stack.enter_context(local_file(job.protect.mask_uri, "protect.mask_uri", fingerprints))
        job = replace(job, protect=replace(job.protect, mask_uri=path))
    return job


def _refined_masks(request: MaskRequest, guard: Callable[[FrameMask], object] | None) -> Iterator[FrameMask]:
    """Yield the request's masks; `guard` receives the protected pixels of each frame."""
    sources = _MaskSources.of(request)
    refiner = _Refiner(request)
    fallbacks = Fallbacks()
    coverage = Coverage()
    for objects in sources.objects(request):
        request.notes.see(objects)
        fallbacks.see(objects)
        protected = sources.protected_at(objects)
        if guard is not None and protected is not None:
            guard(protected)
        whole = refiner.refined(sources.selected_at(objects))
        request.notes.selected += whole is not None
        mask = subtract(whole, protected)
        if mask is not None:
            coverage.add(mask, request.size)
            yield mask if mask.index == objects.index else replace(mask, index=objects.index)
    sources.finish(request)
    for note in fallbacks.notes():
        request.notes.add(note)
    if request.job.task == "removal" and coverage.mean_share > MOST_COVERED:
        request.notes.doubt(f"mask_covers_all: the job {coverage}: hardly anything is left to fill it from")


class _Refiner:
    """Refine each frame's parts; parts equal to the last frame's, as of a static object, are refined once."""

    def __init__(self, request: MaskRequest) -> None:
        self._request = request
        self._dilation = request.job.mask_dilation
        self._parts: list[FrameMask] = []
        self._mask: FrameMask | None = None

    def refined(self, parts: list[FrameMask]) -> FrameMask | None:
        if not _same(parts, self._parts):
            request = self._request
            self._mask = refine(
                parts, request.size, shape=request.job.mask_shape, dilation=self._dilation, min_px=request.min_px
            )
            self._parts = parts
        return self._mask


def _same(parts: list[FrameMask], others: list[FrameMask]) -> bool:
    """Compare the masks of two frames, without their frame numbers."""
    return len(parts) == len(others) and all(
        one.box == other.box and (one.bits is other.bits or np.array_equal(one.bits, other.bits))
        for one, other in zip(parts, others, strict=True)
    )


class _FileMasks:
    """Walk through a mask file in step with the frames; `levels` judges the file."""

    def __init__(self, masks: Iterator[FrameMask], levels: MaskLevels) -> None:
        self.levels = levels
        self._masks = masks
        self._next = next(masks, None)

    @staticmethod
    def of(request: MaskRequest, path: str | None, column: str) -> _FileMasks | None:
        """Open the mask file at `path`, which `column` names, for the request's frames; None without a path."""
        if path is None:
            return None
        levels = MaskLevels(column=column)
        masks = read_masks(path, request.size, request.scan.num_frames, *request.frame_range, levels=levels)
        return _FileMasks(masks, levels)

    def at(self, index: int) -> FrameMask | None:
        """Return the mask of frame `index`, which must not fall from call to call."""
        while self._next is not None and self._next.index < index:
            self._next = next(self._masks, None)
        return self._next if self._next is not None and self._next.index == index else None

    def finish(self) -> None:
        """Read the file to its end, which finds a file of the wrong length."""
        for _ in self._masks:
            pass


@dataclass(frozen=True, slots=True, kw_only=True)
class _MaskSources:
    """The sources of one clip's masks: selected and protected boxes, mask files, and the finder of objects."""

    size: Size
    whole: bool
    selected: tuple[BoxTrack, ...]
    protected: tuple[BoxTrack, ...]
    file: _FileMasks | None
    protect_file: _FileMasks | None
    finder: ObjectFinder | None

    @staticmethod
    def of(request: MaskRequest) -> _MaskSources:
        """Open all sources and check them before a frame is decoded."""
        job, size, scan = request.job, request.size, request.scan
        selected = box_tracks(job.boxes, size, scan.num_frames, scan.cuts)
        protected = box_tracks(job.protect.boxes, size, scan.num_frames, scan.cuts)
        file = _FileMasks.of(request, job.mask_uri, "mask_uri")
        protect_file = _FileMasks.of(request, job.protect.mask_uri, "protect.mask_uri")
        finder = _object_finder(request, selected) if job.needs_pixels else None
        return _MaskSources(
            size=size,
            whole=not job.has_mask_source,
            selected=() if finder is not None and finder.segmenter is not None else selected,
            protected=protected,
            file=file,
            protect_file=protect_file,
            finder=finder,
        )

    def objects(self, request: MaskRequest) -> Iterator[FrameObjects]:
        """Yield the objects found in each frame's pixels; empty ones if no source needs pixels."""
        if self.finder is None:
            return (FrameObjects(index=index) for index in range(*request.frame_range))
        frames = read_frames(request.path, *request.frame_range)
        return self.finder.find(frames, request.scan.cuts, request.frame_range)

    def selected_at(self, objects: FrameObjects) -> list[FrameMask]:
        """Return the masks of the selected objects of a frame."""
        index = objects.index
        parts = list(objects.selected)
        if self.whole:
            parts.append(box_mask(index, Box(0, 0, self.size.width, self.size.height)))
        parts += [box_mask(index, box) for track in self.selected if (box := track.at(index, self.size))]
        if self.file is not None and (mask := self.file.at(index)):
            parts += split_parts(mask)
        return parts

    def protected_at(self, objects: FrameObjects) -> FrameMask | None:
        """Return the union of a frame's protected pixels, or None."""
        index = objects.index
        guards = list(objects.guarded)
        guards += [box_mask(index, box) for track in self.protected if (box := track.at(index, self.size))]
        if self.protect_file is not None and (mask := self.protect_file.at(index)):
            guards.append(mask)
        return merge_masks(guards)

    def finish(self, request: MaskRequest) -> None:
        """Check the rest of the mask files, and each file's masks as a whole.

        A doubt about a mask becomes a note; a doubt about a mask that protects is refused.

        Raises:
            ClipError: `mask_covers_all`, `mask_levels`, `mask_empty`, and as `read_masks`.
        """
        if self.file is not None:
            self.file.finish()
            _judge_file(self.file.levels, request)
        if self.protect_file is not None:
            self.protect_file.finish()
            _judge_protection(self.protect_file.levels, request)


def _judge_file(levels: MaskLevels, request: MaskRequest) -> None:
    """Refuse a mask file that leaves a removal hardly any pixel, and note the doubtful points of a mask file."""
    if levels.softness is not None:
        request.notes.doubt(f"soft_mask: {levels.column}: {levels.softness}")
    if levels.coverage.mean_share > MOST_COVERED:
        if request.job.task == "removal":
            reason = f"{levels.coverage}: hardly anything is left to fill it from; white is replaced, black is kept"
            raise ClipError("mask_covers_all", levels.named(reason))
        request.notes.doubt(f"mask_covers_all: {levels.column} {levels.coverage}")


def _judge_protection(levels: MaskLevels, request: MaskRequest) -> None:
    """Refuse a mask file that protects nothing or everything, or whose levels are doubtful."""
    if levels.softness is not None:
        raise ClipError("mask_levels", levels.named(f"{levels.softness}; a mask that protects must have two levels"))
    num_frames = len(range(*request.frame_range))
    if not levels.coverage.masked_frames:
        raise ClipError(
            "mask_empty", levels.named(f"masks nothing in {num_frames:,} frames, so it would protect nothing")
        )
    if levels.coverage.masked_share > 0.999 * num_frames:
        raise ClipError(
            "mask_covers_all", levels.named(f"{levels.coverage}: everything is protected, nothing may change")
        )


def _object_finder(request: MaskRequest, boxes: Sequence[BoxTrack]) -> ObjectFinder:
    """Build the finder of a job that needs pixels: load its weights and check its class names.

    A static overlay is found last, because that decodes all frames once.
    """
    job, models = request.job, request.models
    assert models is not None, "a request without models never needs pixels"
    points = points_by_object(job.points, request.size, request.frame_range)
    segmenter = _segmenter_or_note(job, models, request.notes)
    marked, prompted = _marked_objects(boxes, points, request.size, segmenter)
    if marked and segmenter is not None and segmenter.memory is None:
        request.notes.add(
            "no_memory: this segmenter has no memory (SAM 2 has); objects are followed by their last outline"
        )
    names = (*job.targets, *job.protect.targets)
    return ObjectFinder(
        job=job,
        size=request.size,
        detector=checked_detector(job, models),
        segmenter=segmenter,
        text=text_finder() if TEXT in names else None,
        overlay=_overlay(request) if OVERLAY in names else None,
        confidence=models.confidence,
        every=models.every,
        tracker=models.tracker,
        boxes=prompted if segmenter is not None else (),
        marked=marked,
        points=points,
        read=_reader(request),
    )


def _overlay(request: MaskRequest) -> FrameMask | None:
    """Find the static overlay in all frames of the request."""
    start, stop = request.frame_range
    return find_overlay(read_frames(request.path, start, stop), stop - start, request.size)


def _reader(request: MaskRequest) -> Callable[[int, int], Iterator[Frame]]:
    """Return a function that reads frames start..stop-1 once more, seeking by their time stamps."""
    pts = request.scan.pts

    def read(start: int, stop: int) -> Iterator[Frame]:
        return read_frames(request.path, start, stop, start_pts=pts[start] if pts else None)

    return read


def _marked_objects(
    boxes: Sequence[BoxTrack],
    points: Mapping[int, Mapping[int, PointPrompts]],
    size: Size,
    segmenter: Segmenter | None,
) -> tuple[list[MarkedObject], list[BoxTrack]]:
    """Split boxes and points into objects to follow from their marks, and boxes that prompt each frame.

    A segmenter with a memory follows keyframed boxes from the frames that they were drawn on; a box without a frame
    prompts every frame.
    """
    has_memory = segmenter is not None and segmenter.memory is not None
    keyed: dict[int, BoxTrack] = {}
    prompted: list[BoxTrack] = []
    for track in boxes:
        if has_memory and track.span is not None:
            keyed[track.object_id] = track
        else:
            prompted.append(track)
    prompted_ids = {track.object_id for track in prompted}
    marked_ids = sorted({*keyed, *(points.keys() - prompted_ids)})
    marked = [_marked_object(keyed.get(number), points.get(number, {}), size) for number in marked_ids]
    return marked, prompted


def _marked_object(track: BoxTrack | None, points: Mapping[int, PointPrompts], size: Size) -> MarkedObject:
    """Mark an object on the frames of its points and on the frames of its drawn boxes."""
    drawn: dict[int, Box | None] = {}
    if track is not None:
        drawn = {key.frame: track.at(key.frame, size) for key in track.keys if key.frame is not None}
    marks = {index: Mark(box=drawn.get(index), points=points.get(index, ())) for index in {*points, *drawn}}
    return MarkedObject(marks=marks, track=track)


def _segmenter_or_note(job: Job, models: MaskModels, notes: Notes) -> Segmenter | None:
    """Load the job's segmenter, or note that it is missing: boxes and targets work without one, points do not.

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
        notes.add(
            f"no_segmenter: the segmenter cannot be loaded ({error.code}); the detector's masks or the boxes are used"
        )
        return None
