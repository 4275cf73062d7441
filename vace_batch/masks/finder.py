"""One pass over the pixels of a clip: what detector and segmenter find, made into whole objects shot by shot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Job, PointKey
from vace_batch.masks.detectors.detection import LEAST_CONFIDENCE, Detection, fold_name
from vace_batch.masks.detectors.overlay import OVERLAY
from vace_batch.masks.detectors.text import LONGEST_PX, TEXT, TextFinder
from vace_batch.masks.detectors.yolo import Detector
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector
from vace_batch.masks.keyframes import Track
from vace_batch.masks.segmenters.sam import Prompt, Segmenter
from vace_batch.masks.segmenters.sam2_memory import Memory, Points
from vace_batch.masks.store import FrameMask, PackedMask, box_mask, make_mask
from vace_batch.masks.tracking.frame_skipping import look_at_some
from vace_batch.masks.tracking.memory import Followed, Read, completed, grown
from vace_batch.masks.tracking.objects import Sighting, Tracked, track_shot
from vace_batch.masks.tracking.smoothing import Steady
from vace_batch.masks.tracking.trackers import Camera
from vace_batch.video.frame import Frame

RGB = npt.NDArray[np.uint8]
# How far an outline may leave the box that asked for it: a segmenter that takes the whole picture must not.
_OUTLINE_REACH = 0.25
_LOOK_BINS = 4
_MOST_SPANS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the pixels of frame `index` hold: masks to be replaced, masks to be kept, and which object each of the first
    is, by number and class, where it is a tracked one."""

    index: int
    selected: list[FrameMask] = field(default_factory=list)
    guarded: list[FrameMask] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Notes:
    """What is worth saying of a clip's masks.

    `words` are for its result; `objects`, where they are wanted (not None), each frame's tracked ones with their boxes.
    """

    words: list[str] = field(default_factory=list)
    objects: dict[int, list[tuple[str, Box]]] | None = None

    def say(self, word: str) -> None:
        """Note a word, once."""
        if word not in self.words:
            self.words.append(word)

    def see(self, found: Found) -> None:
        """Note the objects of a frame."""
        if self.objects is not None:
            named = zip(found.names, found.selected, strict=True)
            self.objects[found.index] = [(name, mask.box) for name, mask in named if name]


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of a frame until it has been looked at: for the networks, and for the text detector."""

    rgb: RGB
    text: RGB | None


@dataclass(slots=True, kw_only=True)
class Watcher:
    """What looks at one clip.

    `boxes` are prompts for the segmenter on each frame; `every` is how many frames a look may stand for; `tracker` is
    bytetrack or botsort. `read` is asked for frames once more where the segmenter has a memory. On the frames
    `remembered` something was found by that memory alone, on `boxed` the segmenter found no outline of something.
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
    boxes: Sequence[Track] = ()
    followed: Sequence[Followed] = ()
    read: Read | None = None
    points: Mapping[int, Mapping[int, Points]] = field(default_factory=dict)
    remembered: set[int] = field(default_factory=set)
    boxed: set[int] = field(default_factory=set)

    def words(self) -> Iterator[str]:
        """What is worth saying of the frames watched so far: where masks are not what was asked for."""
        if self.remembered:
            yield f"from_memory: something on {_listed(self.remembered)} was found by SAM 2's memory alone"
        if boxed := self.boxed.union(*(follow.boxed for follow in self.followed)):
            reason = "the segmenter found no outline; the mask is the detector's or the box"
            yield f"no_outline: for something on {_listed(boxed)} {reason}"

    def watch(self, frames: Iterable[Frame], cuts: Sequence[int], frame_range: tuple[int, int]) -> Iterator[Found]:
        """Every frame of start..stop-1, in order, once its shot is seen to the end."""
        rest, next_id = iter(frames), 1
        edges = [frame_range[0], *(cut for cut in sorted(cuts) if frame_range[0] < cut < frame_range[1])]
        for start, stop in zip(edges, [*edges[1:], frame_range[1]], strict=True):
            outlines: dict[int, list[PackedMask]] = {}
            camera = Camera() if self.tracker == "botsort" else None
            sightings = list(self._sightings(islice(rest, stop - start), outlines, camera))
            objects = track_shot(
                sightings,
                (start, stop),
                sure=self.confidence,
                unsure=min(self.confidence, LEAST_CONFIDENCE),
                first_id=next_id,
                warps=None if camera is None else camera.warps,
            )
            next_id = max((one.id for one in objects), default=next_id - 1) + 1
            self._look_back(outlines, (start, stop))
            yield from self._resolved(objects, outlines, (start, stop))

    def _look_back(self, outlines: dict[int, list[PackedMask]], shot: tuple[int, int]) -> None:
        if self.memory is not None and self.read is not None:
            for follow in self.followed:
                for mask in follow.before(self.memory, shot, self.read):
                    self.remembered.add(mask.index)
                    outlines.setdefault(mask.index, []).append(PackedMask.of(mask))

    @property
    def memory(self) -> Memory | None:
        """The segmenter's, if it has one."""
        return None if self.segmenter is None else self.segmenter.memory

    def _sightings(
        self, frames: Iterable[Frame], outlines: dict[int, list[PackedMask]], camera: Camera | None
    ) -> Iterator[Sighting]:
        def pictures() -> Iterator[tuple[int, Picture]]:
            for frame in frames:
                picture = self._picture(frame)
                if camera is not None:
                    camera.see(frame.small(at_most(self.size, Camera.LONGEST_PX)), self.size)
                if self.segmenter is not None and (self.boxes or self.followed):
                    outlines[frame.index] = [PackedMask.of(mask) for mask in self._prompted(frame.index, picture.rgb)]
                yield frame.index, picture

        def look(index: int, picture: Picture) -> list[Detection]:
            shown[index] = picture
            return self._detections(index, picture)

        shown: dict[int, Picture] = {}
        for index, found in look_at_some(pictures(), look, self.size, self.every):
            picture = shown.pop(index, None)
            for one in found:
                mask = PackedMask.of(one.mask or box_mask(index, one.box))
                looks = () if picture is None else _look(picture.rgb, one.box, self.size)
                yield Sighting(
                    index=index, label=one.label, confidence=one.confidence, box=one.box, mask=mask, look=looks
                )

    def _picture(self, frame: Frame) -> Picture:
        text = None if self.text is None else frame.small(at_most(self.size, LONGEST_PX))
        if self.segmenter is None and isinstance(self.detector, ExportedDetector):
            letterbox = self.detector.letterbox(self.size)
            return Picture(letterbox.place(frame.small(letterbox.inner)), text)
        alone = text is not None and self.segmenter is None and self.detector is None
        return Picture(text if alone and text is not None else frame.rgb(), text)

    def _detections(self, index: int, picture: Picture) -> list[Detection]:
        lines = self.text.find(picture.text, self.size, index) if self.text and picture.text is not None else []
        return lines + self._objects(index, picture.rgb)

    def _objects(self, index: int, picture: RGB) -> list[Detection]:
        if self.detector is None:
            return []
        conf = min(self.confidence, LEAST_CONFIDENCE)
        if self.segmenter is None and isinstance(self.detector, ExportedDetector):
            numbers = self.detector.check_targets(classes_of(self.job))
            return self.detector.detect_small(
                picture, self.detector.letterbox(self.size), numbers, conf=conf, index=index
            )
        found = self.detector.detect(picture, classes_of(self.job), conf=conf, index=index)
        if self.segmenter is None or not found:
            return found
        masks = self._outlines(index, picture, [Prompt(box=one.box) for one in found])
        if None in masks:
            self.boxed.add(index)
        return [
            one if mask is None else Detection(box=mask.box, label=one.label, confidence=one.confidence, mask=mask)
            for one, mask in zip(found, masks, strict=True)
        ]

    def _outlines(self, index: int, picture: RGB, prompts: Sequence[Prompt]) -> list[FrameMask | None]:
        assert self.segmenter is not None
        outlines = self.segmenter.segment(picture, prompts, index=index)
        return [kept_near(outline, prompt, self.size) for outline, prompt in zip(outlines, prompts, strict=True)]

    def _prompted(self, index: int, picture: RGB) -> Iterator[FrameMask]:
        """Outlines of boxes and points; where there is none, the box: an object to be removed must not stay."""
        boxes = [(track.object_id, box) for track in self.boxes if (box := track.at(index, self.size))]
        prompts = [Prompt(box=box, points=self.points.get(number, {}).get(index, ())) for number, box in boxes]
        memory = self.memory
        followed = self.followed if memory is None else ()
        asked = [(follow, prompt) for follow in followed if (prompt := follow.prompt(index, self.size))]
        outlines = self._outlines(index, picture, [*prompts, *(prompt for _, prompt in asked)])
        for (_, box), outline in zip(boxes, outlines, strict=False):
            if outline is None:
                self.boxed.add(index)
            yield outline or box_mask(index, box)
        for (follow, _), outline in zip(asked, outlines[len(boxes) :], strict=True):
            if outline is not None:
                follow.last = outline.box
                yield outline
        if memory is not None and self.followed:
            memory.see(picture)
            for follow in self.followed:
                found = follow.remembered(memory, index, self.size)
                if found and index not in follow.marks and index not in follow.boxed:
                    self.remembered.add(index)
                yield from found

    def _resolved(
        self, objects: Sequence[Tracked], outlines: Mapping[int, Sequence[PackedMask]], shot: tuple[int, int]
    ) -> Iterator[Found]:
        targets, protected = (set(map(fold_name, names)) for names in (self.job.targets, self.job.protect.targets))
        selected = picked(self.job, [one for one in objects if fold_name(one.label) in targets])
        wanted = [(one, self._steady(one, shot)) for one in selected]
        guards = [self._steady(one, shot) for one in objects if fold_name(one.label) in protected]
        for index in range(*shot):
            found = Found(index=index, selected=[packed.unpack() for packed in outlines.get(index, ())])
            for names, masks in ((self.job.targets, found.selected), (self.job.protect.targets, found.guarded)):
                if self.overlay is not None and OVERLAY in names:
                    masks.append(replace(self.overlay, index=index))
            found.names.extend("" for _ in found.selected)
            for one, steady in wanted:
                if (mask := steady.at(index)) is not None:
                    found.selected.append(mask)
                    found.names.append(f"{one.label} {one.id}")
            found.guarded.extend(mask for steady in guards if (mask := steady.at(index)) is not None)
            yield found

    def _steady(self, one: Tracked, shot: tuple[int, int]) -> Steady:
        if self.memory is not None and self.read is not None and one.label != TEXT:
            whole = completed(one, self.memory, shot, self.read)
            seen = {sighting.index for sighting in one.sightings}
            self.remembered.update(sighting.index for sighting in whole.sightings if sighting.index not in seen)
            one = whole
        return Steady(one.sightings, shot, self.size)


def classes_of(job: Job) -> tuple[str, ...]:
    """Classes that a job asks the detector for; text and overlays have detectors of their own."""
    asked = (*job.targets, *job.pick.exclude, *job.protect.targets)
    return tuple(name for name in asked if name not in (TEXT, OVERLAY))


def _listed(frames: Collection[int]) -> str:
    """`3 frames (4, 7-8)`; of many spans the first."""
    spans: list[list[int]] = []
    for index in sorted(frames):
        if not spans or index > spans[-1][1] + 1:
            spans.append([index, index])
        spans[-1][1] = index
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in spans[:_MOST_SPANS]]
    return f"{len(frames)} frames ({', '.join(shown)}{', ...' if len(spans) > _MOST_SPANS else ''})"


def at_most(size: Size, longest: int) -> Size:
    """`size` in its proportions, no side longer than `longest`."""
    scale = min(1.0, longest / max(size.width, size.height))
    return Size(max(round(size.width * scale), 1), max(round(size.height * scale), 1))


def picked(job: Job, objects: Sequence[Tracked]) -> list[Tracked]:
    """Those of a shot's `objects` that the job means."""
    excluded = set(map(fold_name, job.pick.exclude))
    kept = [one for one in objects if fold_name(one.label) not in excluded]
    if job.pick.tracks:
        kept = [one for one in kept if one.id in job.pick.tracks]
    if job.pick.largest and kept:
        areas: dict[int, float] = defaultdict(float)
        for one in kept:
            areas[one.id] += one.area
        largest = max(areas, key=lambda number: areas[number])
        kept = [one for one in kept if one.id == largest]
    return kept


def points_by_object(
    points: Sequence[PointKey], size: Size, frame_range: tuple[int, int]
) -> dict[int, dict[int, Points]]:
    """Object id to frame to its points (x, y, is on the object).

    Raises:
        ClipError: `point_outside_frame`, `point_outside_range`, `no_positive_point`.
    """
    start, stop = frame_range
    grouped: dict[int, dict[int, Points]] = defaultdict(dict)
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


def kept_near(outline: FrameMask | None, prompt: Prompt, size: Size) -> FrameMask | None:
    """An outline, without what leaves the box that asked for it by much."""
    if outline is None or prompt.box is None:
        return outline
    reach = grown(prompt.box, _OUTLINE_REACH, size)
    return make_mask(outline.index, outline.within(reach), (reach.x, reach.y))


def _look(picture: RGB, box: Box, size: Size) -> tuple[float, ...]:
    """A histogram of the colours in the middle of `box`, of a picture that shows a display of `size`."""
    height, width = picture.shape[:2]
    scale = min(width / size.width, height / size.height)
    left, top = (width - size.width * scale) / 2, (height - size.height * scale) / 2
    x, y = round((box.x + box.width / 4) * scale + left), round((box.y + box.height / 4) * scale + top)
    part = picture[y : y + max(round(box.height / 2 * scale), 1), x : x + max(round(box.width / 2 * scale), 1)]
    if not part.size:
        return ()
    counts = cv2.calcHist([np.ascontiguousarray(part)], [0, 1, 2], None, [_LOOK_BINS] * 3, [0, 256] * 3).ravel()
    return tuple((counts / counts.sum()).tolist())
