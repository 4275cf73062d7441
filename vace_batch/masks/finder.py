"""Find a job's objects in one pass over a clip's pixels: detect, segment, track and smooth, shot by shot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

import cv2
import numpy as np

from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.detectors.detection import LEAST_CONFIDENCE, Detection, fold_name
from vace_batch.masks.detectors.overlay import OVERLAY
from vace_batch.masks.detectors.text import LONGEST_TEXT_PX, TEXT, TextFinder
from vace_batch.masks.detectors.yolo import Detector
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector
from vace_batch.masks.keyframes import BoxTrack, PointPrompts
from vace_batch.masks.notes import FrameObjects
from vace_batch.masks.segmenters.sam import Prompt, Segmenter
from vace_batch.masks.segmenters.sam2_memory import Memory
from vace_batch.masks.store import FrameMask, PackedMask, box_mask, make_mask
from vace_batch.masks.tracking.frame_skipping import detect_with_skipping
from vace_batch.masks.tracking.memory import FrameReader, MarkedObject, ObjectFollower, fill_from_memory, grow_box
from vace_batch.masks.tracking.objects import Sighting, TrackedObject, track_shot
from vace_batch.masks.tracking.smoothing import SmoothedObject
from vace_batch.masks.tracking.trackers import CameraMotion
from vace_batch.video.frame import Frame
from vace_batch.video.scaling import Image, shrink_to

# An outline may leave its prompt's box by this share of its longer side: a segmenter may take the whole frame.
_OUTLINE_REACH = 0.25
_COLOUR_BINS = 4


@dataclass(frozen=True, slots=True)
class _FrameImages:
    """A frame's images, kept until the detectors have run: for the networks, and for the text detector."""

    rgb: Image
    text: Image | None


@dataclass(frozen=True, slots=True)
class _NamedObject:
    """An object of a shot, smoothed over the shot's frames; `name` is its class and number."""

    name: str
    smoothed: SmoothedObject


@dataclass(slots=True, kw_only=True)
class _Shot:
    """The state of one pass over the shot of frames start..stop-1.

    `outlines` holds the masks of prompted objects by frame; `from_memory`, `without_outline` and `detected` the frames
    that `FrameObjects` marks so.
    """

    start: int
    stop: int
    followers: Sequence[ObjectFollower]
    camera: CameraMotion | None
    outlines: dict[int, list[PackedMask]] = field(default_factory=lambda: defaultdict(list))
    from_memory: set[int] = field(default_factory=set)
    without_outline: set[int] = field(default_factory=set)
    detected: set[int] = field(default_factory=set)

    @property
    def frames(self) -> tuple[int, int]:
        """The shot's frame range (start, stop)."""
        return self.start, self.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFinder:
    """Finds a job's objects in the pixels of one clip.

    `boxes` prompt the segmenter on each frame; `marked` objects are followed from their marks. `overlay` is the mask of
    static overlays. The detector runs on at least every `every`-th frame. `tracker` is bytetrack or botsort. `read`
    reads frames once more, for a segmenter with a memory.
    """

    job: Job
    size: Size
    detector: Detector | ExportedDetector | None = None
    segmenter: Segmenter | None = None
    text: TextFinder | None = None
    overlay: FrameMask | None = None
    confidence: float
    every: int = 1
    tracker: str = "bytetrack"
    boxes: Sequence[BoxTrack] = ()
    marked: Sequence[MarkedObject] = ()
    points: Mapping[int, Mapping[int, PointPrompts]] = field(default_factory=dict)
    read: FrameReader

    @property
    def memory(self) -> Memory | None:
        """The segmenter's memory; None if it has none."""
        return None if self.segmenter is None else self.segmenter.memory

    def find(
        self, frames: Iterable[Frame], cuts: Sequence[int], frame_range: tuple[int, int]
    ) -> Iterator[FrameObjects]:
        """Yield the objects of every frame of start..stop-1, in order; each shot is read to its end first."""
        first, last = frame_range
        remaining = iter(frames)
        next_id = 1
        for start, stop in pairwise([first, *(cut for cut in sorted(cuts) if first < cut < last), last]):
            shot = _Shot(
                start=start,
                stop=stop,
                followers=[ObjectFollower(marked) for marked in self.marked],
                camera=CameraMotion() if self.tracker == "botsort" else None,
            )
            sightings = list(self._sightings(islice(remaining, stop - start), shot))
            objects = track_shot(
                sightings,
                shot.frames,
                sure=self.confidence,
                unsure=min(self.confidence, LEAST_CONFIDENCE),
                first_id=next_id,
                warps=None if shot.camera is None else shot.camera.warps,
            )
            next_id = max((one.id for one in objects), default=next_id - 1) + 1
            self._look_back(shot)
            yield from self._frame_objects(objects, shot)

    def _sightings(self, frames: Iterable[Frame], shot: _Shot) -> Iterator[Sighting]:
        """Yield the detections of a shot as sightings."""
        shown: dict[int, _FrameImages] = {}

        def detect(index: int, images: _FrameImages) -> list[Detection]:
            shown[index] = images
            shot.detected.add(index)
            return self._detections(index, images, shot)

        for index, detections in detect_with_skipping(self._images(frames, shot), detect, self.size, self.every):
            images = shown.pop(index, None)
            for one in detections:
                yield Sighting(
                    index=index,
                    label=one.label,
                    confidence=one.confidence,
                    box=one.box,
                    mask=PackedMask.of(one.mask or box_mask(index, one.box)),
                    colours=() if images is None else _colours(images.rgb, one.box, self.size),
                )

    def _images(self, frames: Iterable[Frame], shot: _Shot) -> Iterator[tuple[int, _FrameImages]]:
        """Yield each frame's images; record the camera's motion and the prompted objects' outlines on the way."""
        for frame in frames:
            images = self._images_of(frame)
            if shot.camera is not None:
                shot.camera.see(frame.small(shrink_to(self.size, CameraMotion.LONGEST_PX)), self.size)
            if self.segmenter is not None and (self.boxes or self.marked):
                masks = self._prompted(frame.index, images.rgb, shot)
                shot.outlines[frame.index] = [PackedMask.of(mask) for mask in masks]
            yield frame.index, images

    def _images_of(self, frame: Frame) -> _FrameImages:
        """Scale a frame for the networks and for the text detector."""
        text = None if self.text is None else frame.small(shrink_to(self.size, LONGEST_TEXT_PX))
        if self.segmenter is None and isinstance(self.detector, ExportedDetector):
            letterbox = self.detector.letterbox(self.size)
            return _FrameImages(letterbox.place(frame.small(letterbox.inner)), text)
        only_text = text is not None and self.segmenter is None and self.detector is None
        return _FrameImages(text if only_text and text is not None else frame.rgb(), text)

    def _detections(self, index: int, images: _FrameImages, shot: _Shot) -> list[Detection]:
        """Detect text and objects in one frame."""
        lines = self.text.find(images.text, self.size, index) if self.text and images.text is not None else []
        return lines + self._objects(index, images.rgb, shot)

    def _objects(self, index: int, rgb: Image, shot: _Shot) -> list[Detection]:
        """Detect objects of the job's classes in one frame, outlined by the segmenter if there is one."""
        if self.detector is None:
            return []
        conf = min(self.confidence, LEAST_CONFIDENCE)
        if self.segmenter is None and isinstance(self.detector, ExportedDetector):
            numbers = self.detector.check_targets(classes_of(self.job))
            return self.detector.detect_small(rgb, self.detector.letterbox(self.size), numbers, conf=conf, index=index)
        detections = self.detector.detect(rgb, classes_of(self.job), conf=conf, index=index)
        if self.segmenter is None or not detections:
            return detections
        masks = self._outlines(index, rgb, [Prompt(box=one.box) for one in detections])
        if None in masks:
            shot.without_outline.add(index)
        return [
            one if mask is None else Detection(box=mask.box, label=one.label, confidence=one.confidence, mask=mask)
            for one, mask in zip(detections, masks, strict=True)
        ]

    def _outlines(self, index: int, rgb: Image, prompts: Sequence[Prompt]) -> list[FrameMask | None]:
        """Segment the prompted objects of one frame."""
        assert self.segmenter is not None
        outlines = self.segmenter.segment(rgb, prompts, index=index)
        return [clip_to_prompt(outline, prompt, self.size) for outline, prompt in zip(outlines, prompts, strict=True)]

    def _prompted(self, index: int, rgb: Image, shot: _Shot) -> Iterator[FrameMask]:
        """Yield the masks of prompted objects in one frame; an object without an outline is masked by its box."""
        boxed = self._box_prompts(index)
        followed = self._follower_prompts(index, shot)
        outlines = self._outlines(index, rgb, [prompt for _, prompt in (*boxed, *followed)])
        for (box, _), outline in zip(boxed, outlines, strict=False):
            if outline is None:
                shot.without_outline.add(index)
            yield outline or box_mask(index, box)
        for (follower, _), outline in zip(followed, outlines[len(boxed) :], strict=True):
            if outline is not None:
                follower.last_outline = outline.box
                yield outline
        if self.memory is not None and shot.followers:
            yield from self._remembered(self.memory, index, rgb, shot)

    def _box_prompts(self, index: int) -> list[tuple[Box, Prompt]]:
        """Return the boxes of prompted objects in one frame, each with its prompt."""
        prompts = []
        for track in self.boxes:
            box = track.at(index, self.size)
            if box is not None:
                points = self.points.get(track.object_id, {}).get(index, ())
                prompts.append((box, Prompt(box=box, points=points)))
        return prompts

    def _follower_prompts(self, index: int, shot: _Shot) -> list[tuple[ObjectFollower, Prompt]]:
        """Return the followers of marked objects with their prompts in one frame; a memory needs no prompts."""
        if self.memory is not None:
            return []
        prompts = [(follower, follower.prompt(index, self.size)) for follower in shot.followers]
        return [(follower, prompt) for follower, prompt in prompts if prompt is not None]

    def _remembered(self, memory: Memory, index: int, rgb: Image, shot: _Shot) -> Iterator[FrameMask]:
        """Yield the masks that the memory finds of marked objects in one frame."""
        memory.see(rgb)
        for follower in shot.followers:
            remembered = follower.remembered(memory, index, self.size)
            if remembered.has_box:
                shot.without_outline.add(index)
            elif remembered.masks and index not in follower.marked.marks:
                shot.from_memory.add(index)
            yield from remembered.masks

    def _look_back(self, shot: _Shot) -> None:
        """Find marked objects in the frames of the shot before their first mark."""
        if self.memory is not None:
            for follower in shot.followers:
                for mask in follower.before(self.memory, shot.frames, self.read):
                    shot.from_memory.add(mask.index)
                    shot.outlines[mask.index].append(PackedMask.of(mask))

    def _frame_objects(self, objects: Sequence[TrackedObject], shot: _Shot) -> Iterator[FrameObjects]:
        """Yield the objects of each frame of a shot whose frames were all read."""
        targets = picked(self.job, _of_classes(self.job.targets, objects))
        selected = [self._smoothed(one, shot) for one in targets]
        guards = [self._smoothed(one, shot) for one in _of_classes(self.job.protect.targets, objects)]
        for index in range(*shot.frames):
            outlines = [packed.unpack() for packed in shot.outlines.get(index, ())]
            outlines += self._overlay_at(index, self.job.targets)
            names, masks = _shown(selected, index)
            _, guarded = _shown(guards, index)
            yield FrameObjects(
                index=index,
                selected=[*outlines, *masks],
                guarded=[*self._overlay_at(index, self.job.protect.targets), *guarded],
                names=[*[""] * len(outlines), *names],
                from_memory=index in shot.from_memory,
                without_outline=index in shot.without_outline,
                detected=index in shot.detected,
            )

    def _overlay_at(self, index: int, names: Sequence[str]) -> list[FrameMask]:
        """Return the static overlay on frame `index`, if `names` ask for overlays."""
        return [replace(self.overlay, index=index)] if self.overlay is not None and OVERLAY in names else []

    def _smoothed(self, one: TrackedObject, shot: _Shot) -> _NamedObject:
        """Smooth an object over its shot; a memory fills its gaps first."""
        if self.memory is not None and one.label != TEXT:
            seen = {sighting.index for sighting in one.sightings}
            one = fill_from_memory(one, self.memory, shot.frames, self.read)
            shot.from_memory.update(sighting.index for sighting in one.sightings if sighting.index not in seen)
        return _NamedObject(f"{one.label} {one.id}", SmoothedObject(one.sightings, shot.frames, self.size))


def _of_classes(names: Iterable[str], objects: Sequence[TrackedObject]) -> list[TrackedObject]:
    """Select the objects of the classes `names`."""
    labels = set(map(fold_name, names))
    return [one for one in objects if fold_name(one.label) in labels]


def _shown(objects: Sequence[_NamedObject], index: int) -> tuple[list[str], list[FrameMask]]:
    """Return the names and the masks of the objects that frame `index` shows."""
    names = []
    masks = []
    for one in objects:
        mask = one.smoothed.at(index)
        if mask is not None:
            names.append(one.name)
            masks.append(mask)
    return names, masks


def classes_of(job: Job) -> tuple[str, ...]:
    """Return the classes that a job's detector must know; text and overlays have detectors of their own."""
    asked = (*job.targets, *job.pick.exclude, *job.protect.targets)
    return tuple(name for name in asked if name not in (TEXT, OVERLAY))


def picked(job: Job, objects: Sequence[TrackedObject]) -> list[TrackedObject]:
    """Keep the objects of a shot that the job's `pick` selects."""
    excluded = set(map(fold_name, job.pick.exclude))
    selected = [one for one in objects if fold_name(one.label) not in excluded]
    if job.pick.tracks:
        selected = [one for one in selected if one.id in job.pick.tracks]
    if job.pick.largest and selected:
        largest = _largest_id(selected)
        selected = [one for one in selected if one.id == largest]
    return selected


def _largest_id(objects: Sequence[TrackedObject]) -> int:
    """Return the id of the object with the largest area, over all its appearances; of equal ones the first."""
    areas: dict[int, float] = defaultdict(float)
    for one in objects:
        areas[one.id] += one.area
    return max(areas, key=lambda number: areas[number])


def clip_to_prompt(outline: FrameMask | None, prompt: Prompt, size: Size) -> FrameMask | None:
    """Cut an outline to its prompt's box and a margin around the box."""
    if outline is None or prompt.box is None:
        return outline
    reach = grow_box(prompt.box, _OUTLINE_REACH, size)
    return make_mask(outline.index, outline.within(reach), (reach.x, reach.y))


def _colours(rgb: Image, box: Box, size: Size) -> tuple[float, ...]:
    """Return the colour histogram of the middle of `box`, in an image that shows a display of `size`."""
    height, width = rgb.shape[:2]
    scale = min(width / size.width, height / size.height)
    left = (width - size.width * scale) / 2
    top = (height - size.height * scale) / 2
    x = round((box.x + box.width / 4) * scale + left)
    y = round((box.y + box.height / 4) * scale + top)
    part = rgb[y : y + max(round(box.height / 2 * scale), 1), x : x + max(round(box.width / 2 * scale), 1)]
    if not part.size:
        return ()
    counts = cv2.calcHist([np.ascontiguousarray(part)], [0, 1, 2], None, [_COLOUR_BINS] * 3, [0, 256] * 3).ravel()
    return tuple((counts / counts.sum()).tolist())
