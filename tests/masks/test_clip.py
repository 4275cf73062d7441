"""Masked objects on drawn clips with known true masks: real video, tracker, filling and refinement.

The detector finds objects by their colours. On chosen frames it misses everything, or sees ghosts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Dilation, Job, Pick, Protect
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.detectors.detection import Detection, class_numbers
from vace_batch.masks.models import MaskModels
from vace_batch.masks.notes import Notes
from vace_batch.masks.store import box_mask, make_mask
from vace_batch.video.shots import Scan
from vace_batch.video.writer import write_clip

SIZE, NUM_FRAMES = Size(256, 144), 40
Bits = NDArray[np.bool_]

RED, BLUE, GREEN, YELLOW = (220, 30, 30), (30, 60, 230), (20, 190, 40), (230, 220, 20)
CLASSES = {"ball": (RED, BLUE), "car": (GREEN,), "horse": (YELLOW,)}
BACKGROUND = np.kron(np.random.default_rng(0).integers(90, 130, (18, 32, 1), np.uint8), np.ones((8, 8, 3), np.uint8))


@dataclass(frozen=True)
class Actor:
    """A disc: where its middle is on its frames."""

    colour: tuple[int, int, int]
    radius: int
    way: Callable[[int], tuple[float, float]]
    frames: range = range(NUM_FRAMES)

    def bits(self, index: int) -> Bits:
        return self.disc(index) if index in self.frames else np.zeros((SIZE.height, SIZE.width), bool)

    def disc(self, index: int) -> Bits:
        drawn = np.zeros((SIZE.height, SIZE.width), np.uint8)
        x, y = self.way(index)
        cv2.circle(drawn, (round(x), round(y)), self.radius, 1, -1)
        return drawn.astype(bool)


@dataclass
class ColourDetector:
    """Detects areas of a class's colours; nothing on `blind` frames, one false object on frames of `ghosts`."""

    blind: Collection[int] = ()
    ghosts: Mapping[int, Box] = field(default_factory=dict)
    confidence: Callable[[int], float] = lambda index: 0.8
    looks: list[int] = field(default_factory=list)

    def check_targets(self, targets: Sequence[str]) -> list[int]:
        return class_numbers(targets, dict(enumerate(CLASSES)), "colours")

    def detect(self, rgb: NDArray[np.uint8], targets: Sequence[str], *, conf: float, index: int) -> list[Detection]:
        self.looks.append(index)
        sure, found = self.confidence(index), []
        for label in dict.fromkeys(target.casefold() for target in targets):
            for colour in CLASSES[label]:
                near = (np.abs(rgb.astype(int) - colour).max(axis=2) < 60).astype(np.uint8)
                count, areas = cv2.connectedComponents(near)
                for number in range(1, count):
                    mask = make_mask(index, areas == number)
                    if mask is not None and mask.bits.sum() > 25 and sure >= conf and index not in self.blind:
                        found.append(Detection(box=mask.box, label=label, confidence=sure, mask=mask))
        if index in self.ghosts:
            ghost = box_mask(index, self.ghosts[index])
            found.append(Detection(box=ghost.box, label="ball", confidence=0.95, mask=ghost))
        return found


class Clip:
    """A video of `actors`, later ones in the list in front, and the masks made of it."""

    def __init__(self, folder: Path, *actors: Actor) -> None:
        self.actors, self.path = actors, str(folder / "clip.mp4")
        write_clip(self.path, map(self._frame, range(NUM_FRAMES)), rate=Fraction(25))

    def _frame(self, index: int) -> NDArray[np.uint8]:
        canvas = BACKGROUND.copy()
        for actor in self.actors:
            canvas[actor.bits(index)] = actor.colour
        return canvas

    def true(self, number: int, index: int) -> Bits:
        """Return the visible pixels of an actor."""
        bits = self.actors[number].bits(index)
        for other in self.actors[number + 1 :]:
            bits &= ~other.bits(index)
        return bits

    def masks(self, monkeypatch: pytest.MonkeyPatch, detector: ColourDetector, **asked: Any) -> list[Bits]:
        monkeypatch.setattr(MaskModels, "load_detector", lambda *_: detector)
        job = Job(job_id="a", video_uri="-", task="removal", **{"targets": ("ball",), "dilate": Dilation(px=0)} | asked)
        self.notes = Notes(objects={})
        request = MaskRequest(
            job=job,
            path=self.path,
            size=SIZE,
            scan=Scan(num_frames=NUM_FRAMES, pts=(), cuts=()),
            frame_range=(0, NUM_FRAMES),
            models=MaskModels(),
            notes=self.notes,
        )
        by_frame = {mask.index: mask.full(SIZE) for mask in clip_masks(request)}
        return [by_frame.get(index, np.zeros((SIZE.height, SIZE.width), bool)) for index in range(NUM_FRAMES)]

    def check(self, masks: Sequence[Bits], wanted: Collection[int], *, rim: int = 3, lead: int = 2) -> None:
        """The `wanted` actors are masked on all of their frames, but for softened rims; nothing else is.

        A mask may be there for `lead` frames before and after its object: these it is most often missed on.
        """
        kernel = np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)
        for index, made in enumerate(masks):
            for number in range(len(self.actors)):
                core = within_rim(self.true(number, index))
                if core.any():
                    share = made[core].mean()
                    assert share > 0.97 if number in wanted else share < 0.03, (index, number, share)
            may = np.zeros_like(made)
            for actor in (self.actors[number] for number in wanted):
                near = [other for other in range(index - lead, index + lead + 1) if actor.bits(other).any()]
                if near:
                    may |= actor.disc(index)
                for other in near if index not in near else ():
                    may |= actor.disc(other)
            room = cv2.dilate(may.view(np.uint8), kernel).astype(bool)
            assert (made & ~room).sum() <= 40, index


def within_rim(bits: Bits) -> Bits:
    """Erode a mask by its rim, which a codec softens; small masks vanish."""
    return cv2.erode(bits.view(np.uint8), np.ones((7, 7), np.uint8), borderValue=0).astype(bool)


def line(x: float, y: float, dx: float, dy: float = 0.0) -> Callable[[int], tuple[float, float]]:
    return lambda index: (x + dx * index, y + dy * index)


# --- which objects are meant -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Three red discs that are alike but for their sizes; they come at frames 0, 6 and 12."""
    return Clip(
        tmp_path_factory.mktemp("three"),
        Actor(RED, 12, line(30, 30, 4.0)),
        Actor(RED, 22, line(220, 118, -3.0), range(6, NUM_FRAMES)),
        Actor(RED, 14, line(20, 75, 2.0), range(12, NUM_FRAMES)),
    )


@pytest.mark.parametrize(
    ("pick", "wanted"),
    [
        (Pick(), (0, 1, 2)),
        (Pick(largest=True), (1,)),
        (Pick(tracks=(3,)), (2,)),
        (Pick(tracks=(1, 3)), (0, 2)),
        (Pick(tracks=(1, 3), largest=True), (0,)),
        (Pick(tracks=(7,)), ()),
    ],
)
def test_only_those_that_are_picked_are_masked(
    three: Clip, monkeypatch: pytest.MonkeyPatch, pick: Pick, wanted: tuple[int, ...]
) -> None:
    three.check(three.masks(monkeypatch, ColourDetector(), pick=pick), wanted)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A red and a blue ball, a car that passes before the red one, a horse that comes late."""
    return Clip(
        tmp_path_factory.mktemp("mixed"),
        Actor(RED, 18, line(120, 70, 0.5)),
        Actor(BLUE, 13, line(30, 25, 4.5)),
        Actor(GREEN, 15, line(20, 84, 5.5)),
        Actor(YELLOW, 16, line(230, 118, -3.0), range(9, NUM_FRAMES)),
    )


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"targets": ("ball", "car", "horse")}, (0, 1, 2, 3)),
        ({"targets": ("car", "horse")}, (2, 3)),
        ({"targets": ("ball", "horse"), "pick": Pick(exclude=("horse",))}, (0, 1)),
        ({"targets": ("ball", "car", "horse"), "pick": Pick(exclude=("Ball",))}, (2, 3)),
        ({"targets": ("horse",), "pick": Pick(exclude=("ball", "car"))}, (3,)),
        ({"targets": ("ball",), "protect": Protect(targets=("car",))}, (0, 1)),
    ],
)
def test_of_several_classes_those_that_are_meant_are_masked(
    mixed: Clip, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], wanted: tuple[int, ...]
) -> None:
    mixed.check(mixed.masks(monkeypatch, ColourDetector(), **asked), wanted)


def test_what_is_protected_wins_over_what_grows_round_it(mixed: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"targets": ("ball",), "dilate": Dilation(px=12), "protect": Protect(targets=("car",))}
    for index, made in enumerate(mixed.masks(monkeypatch, ColourDetector(), **asked)):
        assert not made[within_rim(mixed.true(2, index))].any(), index
        assert made[within_rim(mixed.true(0, index))].mean() > 0.97, index


# --- who is who ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blind", [(), (18, 19), (17, 18, 19, 20, 21)])
@pytest.mark.parametrize("number", [1, 2])
def test_lookalikes_that_pass_one_another_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: tuple[int, ...], number: int
) -> None:
    """The balls pass with three pixels between them, in some cases while the detector is blind."""
    clip = Clip(tmp_path, Actor(RED, 12, line(20, 55, 5.5)), Actor(RED, 12, line(236, 83, -5.5)))
    masks = clip.masks(monkeypatch, ColourDetector(blind=blind), pick=Pick(tracks=(number,)))
    clip.check(masks, (number - 1,))


@pytest.mark.parametrize(
    ("colour", "number", "wanted"), [(RED, 1, (0, 2)), (RED, 2, (1,)), (BLUE, 1, (0,)), (BLUE, 3, (2,))]
)
def test_who_leaves_and_comes_back_is_the_same_and_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: tuple[int, int, int], number: int, wanted: tuple[int, ...]
) -> None:
    """A red ball leaves to the right, and from the left one comes 19 frames later; a blue one is there all the time."""
    clip = Clip(
        tmp_path,
        Actor(RED, 14, line(200, 40, 9.0), range(10)),
        Actor(BLUE, 14, line(230, 110, -3.0)),
        Actor(colour, 14, line(-240, 70, 9.0), range(26, NUM_FRAMES)),
    )
    masks = clip.masks(monkeypatch, ColourDetector(), pick=Pick(tracks=(number,)))
    clip.check(masks, wanted)
    assert number == 2 or not any(made.any() for made in masks[13:23]), "nothing is masked while it is away"


# --- a detector that fails -------------------------------------------------------------------------------------------


def test_what_is_not_seen_for_a_while_is_masked_all_the_same_and_ghosts_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip(tmp_path, Actor(RED, 16, line(30, 40, 5.0, 1.5)), Actor(BLUE, 12, line(225, 120, -4.0)))
    ghosts = {6: Box(150, 8, 30, 30), 7: Box(152, 8, 30, 30), 26: Box(20, 90, 40, 40)}
    detector = ColourDetector(blind=(3, 10, 11, 12, 13, 20, 31, 32), ghosts=ghosts)
    clip.check(clip.masks(monkeypatch, detector), (0, 1), rim=5)
    found = {name for named in (clip.notes.objects or {}).values() for name, _ in named}
    assert found == {"ball 1", "ball 2"}


def test_confidence_that_sinks_keeps_an_object_and_one_that_never_rises_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip(tmp_path, Actor(RED, 16, line(40, 60, 4.0)))
    sinking = ColourDetector(confidence=lambda index: 0.7 if index < 5 else 0.12)
    clip.check(clip.masks(monkeypatch, sinking), (0,))
    assert not any(made.any() for made in clip.masks(monkeypatch, ColourDetector(confidence=lambda _: 0.2)))


def test_nothing_flickers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A still ball seen on two of three frames has one mask, except for its rim, which a codec changes."""
    clip = Clip(tmp_path, Actor(RED, 20, line(100, 70, 0.0)))
    masks = clip.masks(monkeypatch, ColourDetector(blind=range(2, NUM_FRAMES, 3)))
    changes = [(one ^ other).sum() for one, other in zip(masks, masks[1:], strict=False)]
    assert max(changes) < 0.05 * masks[0].sum() and masks[0].any()


def test_what_moves_evenly_is_not_looked_at_on_every_frame_and_an_arrival_is_not_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip(
        tmp_path, Actor(RED, 14, line(30, 40, 4.0)), Actor(BLUE, 14, line(200, 110, -2.0), range(21, NUM_FRAMES))
    )
    detector = ColourDetector()
    clip.check(clip.masks(monkeypatch, detector), (0, 1), lead=2)
    assert len(detector.looks) < 0.7 * NUM_FRAMES and 21 in detector.looks
    assert (clip.notes.detected, clip.notes.frames) == (len(set(detector.looks)), NUM_FRAMES)
