"""The one way to a clip's masks: find by boxes, mask file, YOLO or SAM, then refine and protect, frame by frame."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import TOKEN_PX, Box, Size
from vace_batch.manifest import Job, PointKey
from vace_batch.masks.detect import Detector, download_release
from vace_batch.masks.detection import DEFAULT_CONFIDENCE, Detection, fold_name
from vace_batch.masks.files import read_masks
from vace_batch.masks.refine import refine, split_parts, subtract
from vace_batch.masks.segment import Prompt, Segmenter
from vace_batch.masks.shapes import Track, tracks
from vace_batch.masks.store import FrameMask, box_mask, make_mask, merge_masks
from vace_batch.masks.weights import find_weights
from vace_batch.video.read import read_frames

RGB = npt.NDArray[np.uint8]

# How far an outline may leave the box that asked for it: a segmenter that takes the whole picture must not.
_OUTLINE_REACH = 0.25
# A followed object's next box: its last outline's, with room for what it moves from frame to frame.
_FOLLOW_REACH = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskModels:
    """Which weights mask making may use; small and picklable, the loaded models stay in the process that used them.

    `detector` and `segmenter` are for jobs that name none. A job's own weights must be one of these two or lie in
    `folders`; `downloads` is a folder for releases of ultralytics fetched by name, None forbids fetching.
    """

    detector: str | None = None
    segmenter: str | None = None
    folders: tuple[str, ...] = ()
    downloads: str | None = None
    device: str = "cpu"
    confidence: float = DEFAULT_CONFIDENCE

    def load_detector(self, name: str | None) -> Detector:
        """The detector that a job asks for by `name`, or the configured one.

        Raises:
            ClipError: `no_detector`, `weights_not_found`, `weights_not_allowed`, `bad_weights`, `wrong_weights`.
        """
        path = self._path(name, self.detector, "detector", "targets")
        return _loaded_detector(path, os.stat(path).st_mtime_ns, self.device)

    def load_segmenter(self, name: str | None) -> Segmenter:
        """The segmenter that a job asks for by `name`, or the configured one.

        Raises:
            ClipError: `no_segmenter`, `weights_not_found`, `weights_not_allowed`, `bad_weights`, `wrong_weights`.
        """
        path = self._path(name, self.segmenter, "segmenter", "points")
        return _loaded_segmenter(path, os.stat(path).st_mtime_ns, self.device)

    def weights_of(self, job: Job) -> dict[str, str | None]:
        """Paths of the weights that decide the job's masks, by column; None where they are not needed or not there."""
        wanted = {
            "detector": (job.detector, self.detector, bool(job.targets or job.protect.targets)),
            "segmenter": (job.segmenter, self.segmenter, bool(job.points or job.segmenter)),
        }
        paths: dict[str, str | None] = {}
        for column, (name, configured, needed) in wanted.items():
            paths[column] = None
            if needed and (name or configured):
                with suppress(ClipError):  # prepare tells the row
                    paths[column] = find_weights(name or configured or "", configured=configured, folders=self.folders)
        return paths

    def _path(self, name: str | None, configured: str | None, column: str, needed_by: str) -> str:
        chosen = name or configured
        if chosen is None:
            reason = f"{needed_by} need weights: set the column {column!r}, or configure a default {column}"
            raise ClipError(f"no_{column}", reason)
        try:
            return find_weights(chosen, configured=configured, folders=self.folders)
        except ClipError:
            if self.downloads is None or chosen != Path(chosen).name:
                raise
            return download_release(chosen, self.downloads)


@lru_cache(maxsize=2)
def _loaded_detector(path: str, stamp: int, device: str) -> Detector:
    return Detector.load(path, device=device)


@lru_cache(maxsize=2)
def _loaded_segmenter(path: str, stamp: int, device: str) -> Segmenter:
    return Segmenter.load(path, device=device)


def has_mask_source(job: Job) -> bool:
    """Whether the job says where to change the picture; a job without it means all of the picture, or nothing."""
    return bool(job.boxes or job.mask_uri or job.targets or job.points)


def needs_pixels(job: Job) -> bool:
    """Whether masks come from looking at the frames, so that making them means decoding the video."""
    by_model = job.targets or job.protect.targets or job.points
    return bool(by_model or (job.boxes and job.segmenter))


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
) -> Iterator[FrameMask]:
    """What to replace in each frame of `frame_range` (start, stop) of the local video at `path`, in order.

    Boxes, mask file, detected targets and prompted objects of the job are joined; each object is shaped and dilated by
    its own size, parts thinner than `min_px` grow, and protected pixels are taken out last. Frames without a mask are
    left out. `job.mask_uri` and `job.protect.mask_uri` must be local paths. `cuts` are the first frames of later shots;
    an object marked by points is followed from them to the next cut.

    Raises:
        ClipError: `no_mask_source`, and what boxes, mask files, weights, refining and reading raise; at any frame.
    """
    if not has_mask_source(job):
        raise ClipError("no_mask_source", "expected boxes, mask_uri, targets or points; the job has none of them")
    start, stop = frame_range or (0, num_frames)
    finder = _Finder.of(job, size, num_frames, (start, stop), frozenset(cuts), models)
    pixels: Iterable[RGB | None] = repeat(None, stop - start)
    if needs_pixels(job):
        pixels = (frame.rgb() for frame in read_frames(path, start, stop))
    last_parts: list[FrameMask] = []
    last_mask: FrameMask | None = None
    for index, rgb in zip(range(start, stop), pixels, strict=True):
        parts, protected = finder.at(index, rgb)
        if not _same(parts, last_parts):
            last_mask = refine(parts, size, shape=job.mask_shape, dilation=job.dilate, min_px=min_px)
            last_parts = parts
        mask = subtract(last_mask, protected)
        if mask is not None:
            yield mask if mask.index == index else replace(mask, index=index)
    finder.finish()


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
class _Followed:
    """An object marked by points: prompted on their frames, then by its own last outline until the next cut."""

    points: Mapping[int, tuple[tuple[float, float, bool], ...]]
    cuts: frozenset[int]
    last: Box | None = None

    def prompt(self, index: int, size: Size) -> Prompt | None:
        if index in self.cuts:
            self.last = None
        points = self.points.get(index, ())
        if any(positive for *_, positive in points):
            return Prompt(points=points)
        return None if self.last is None else Prompt(box=_grown(self.last, _FOLLOW_REACH, size), points=points)


@dataclass(slots=True, kw_only=True)
class _Finder:
    """What one clip's job selects and protects in a frame."""

    job: Job
    size: Size
    selected: tuple[Track, ...]
    protected: tuple[Track, ...]
    file: _Stored | None
    protect_file: _Stored | None
    detector: Detector | None
    confidence: float
    segmenter: Segmenter | None
    followed: list[_Followed] = field(default_factory=list)
    points: Mapping[int, Mapping[int, tuple[tuple[float, float, bool], ...]]] = field(default_factory=dict)

    @staticmethod
    def of(
        job: Job,
        size: Size,
        num_frames: int,
        frame_range: tuple[int, int],
        cuts: frozenset[int],
        models: MaskModels,
    ) -> _Finder:
        """Check all that can be checked before a frame is decoded."""

        def stored(uri: str | None) -> _Stored | None:
            return None if uri is None else _Stored(read_masks(uri, size, num_frames, *frame_range))

        points = _points_by_object(job.points, size, frame_range)
        selected = tracks(job.boxes, size, num_frames, cuts)
        boxed = {track.object_id for track in selected}
        detector = None
        if targets := (*job.targets, *job.protect.targets):
            detector = models.load_detector(job.detector)
            detector.check_targets(targets)
        return _Finder(
            job=job,
            size=size,
            selected=selected,
            protected=tracks(job.protect.boxes, size, num_frames, cuts),
            file=stored(job.mask_uri),
            protect_file=stored(job.protect.mask_uri),
            detector=detector,
            confidence=models.confidence,
            segmenter=models.load_segmenter(job.segmenter) if job.segmenter or points else None,
            followed=[_Followed(points=keys, cuts=cuts) for number, keys in points.items() if number not in boxed],
            points=points,
        )

    def at(self, index: int, rgb: RGB | None) -> tuple[list[FrameMask], FrameMask | None]:
        """The selected objects' masks, and the union of what is protected."""
        found: list[Detection] = []
        if self.detector is not None and rgb is not None:
            targets = (*self.job.targets, *self.job.protect.targets)
            found = self.detector.detect(rgb, targets, conf=self.confidence, index=index)
        parts = self._selected(index, rgb, _of_targets(found, self.job.targets))
        guards = [_own_mask(index, detection) for detection in _of_targets(found, self.job.protect.targets)]
        guards += [box_mask(index, box) for track in self.protected if (box := track.at(index, self.size))]
        if self.protect_file is not None and (stored := self.protect_file.at(index)):
            guards.append(stored)
        return parts, merge_masks(guards)

    def finish(self) -> None:
        for file in (self.file, self.protect_file):
            if file is not None:
                file.finish()

    def _selected(self, index: int, rgb: RGB | None, found: list[Detection]) -> list[FrameMask]:
        boxes = [(track.object_id, box) for track in self.selected if (box := track.at(index, self.size))]
        parts = [_own_mask(index, detection) for detection in found]
        parts += [box_mask(index, box) for _, box in boxes]
        if self.segmenter is not None and rgb is not None:
            prompts = [Prompt(box=part.box) for part in parts[: len(found)]]
            prompts += [Prompt(box=box, points=self.points.get(number, {}).get(index, ())) for number, box in boxes]
            parts = self._outlines(index, rgb, prompts, parts)
        if self.file is not None and (stored := self.file.at(index)):
            parts += split_parts(stored)
        return parts

    def _outlines(self, index: int, rgb: RGB, prompts: list[Prompt], fallbacks: list[FrameMask]) -> list[FrameMask]:
        """Prompted outlines; where there is none, what prompted it (an object to be removed must not stay)."""
        assert self.segmenter is not None
        asked = [(follow, prompt) for follow in self.followed if (prompt := follow.prompt(index, self.size))]
        every = [*prompts, *(prompt for _, prompt in asked)]
        outlines = [
            _kept_near(outline, prompt, self.size)
            for outline, prompt in zip(self.segmenter.segment(rgb, every, index=index), every, strict=True)
        ]
        parts = [outline or fallback for outline, fallback in zip(outlines, fallbacks, strict=False)]
        for (follow, _), outline in zip(asked, outlines[len(prompts) :], strict=True):
            if outline is not None:
                follow.last = outline.box
                parts.append(outline)
        return parts


def _points_by_object(
    points: Sequence[PointKey], size: Size, frame_range: tuple[int, int]
) -> dict[int, dict[int, tuple[tuple[float, float, bool], ...]]]:
    """Object id to frame to its points (x, y, is on the object).

    Raises:
        ClipError: `point_outside_frame`, `point_outside_range`, `no_positive_point`.
    """
    start, stop = frame_range
    grouped: dict[int, dict[int, tuple[tuple[float, float, bool], ...]]] = defaultdict(dict)
    for key in sorted(points, key=lambda key: (key.object_id, key.frame)):
        who = f"points: object {key.object_id} on frame {key.frame}"
        if not (0 <= key.x < size.width and 0 <= key.y < size.height):
            raise ClipError("point_outside_frame", f"{who}: ({key.x:g}, {key.y:g}) is outside the frame of {size}")
        if not start <= key.frame < stop:
            reason = f"{who}: the job covers frames {start}..{stop - 1}; mark the object on one of these"
            raise ClipError("point_outside_range", reason)
        frames = grouped[key.object_id]
        frames[key.frame] = (*frames.get(key.frame, ()), (key.x, key.y, key.positive))
    for number, frames in grouped.items():
        if not any(positive for *_, positive in next(iter(frames.values()))):
            reason = f"points: object {number} needs a positive point on its first frame ({next(iter(frames))})"
            raise ClipError("no_positive_point", reason)
    return dict(grouped)


def _of_targets(found: list[Detection], targets: Sequence[str]) -> list[Detection]:
    names = {fold_name(name) for name in targets}
    return [detection for detection in found if fold_name(detection.label) in names]


def _own_mask(index: int, detection: Detection) -> FrameMask:
    return detection.mask or box_mask(index, detection.box)


def _kept_near(outline: FrameMask | None, prompt: Prompt, size: Size) -> FrameMask | None:
    if outline is None or prompt.box is None:
        return outline
    reach = _grown(prompt.box, _OUTLINE_REACH, size)
    return make_mask(outline.index, outline.within(reach), (reach.x, reach.y))


def _grown(box: Box, share: float, size: Size) -> Box:
    """`box` and `share` of its longer side around it, in the frame."""
    return box.pad(max(round(share * max(box.width, box.height)), 2)).clip(size) or box
