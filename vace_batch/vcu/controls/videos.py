"""Draw the control videos that steer a window, from the source; a frame's control is equal in every window.

Values without a natural range (depth, flow) are scaled by their SHOT: `measure` looks at a few of its frames once, when
the clip is prepared, and the `Scale` it finds goes into the clip's plan, so that every window of the shot, on whatever
machine, is drawn with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from vace_batch.geometry import Box, Size
from vace_batch.manifest.choices import CONTROL_NETWORKS
from vace_batch.vcu.controls import draw, networks
from vace_batch.vcu.unit import Pixels

Boxes = Sequence[tuple[int, Box]]

SIMPLE = ("gray", "scribble", "plain")
"""Controls of a single frame at model scale."""

LAYOUTS = ("layout_bbox", "layout_track")

MEASURED = ("depth", "flow")
MEASURED_FRAMES = 12
"""Frames of a shot, evenly spread, that its scale is taken from."""

_DRAW_PX = 960
"""Longer side at which whole pictures are estimated and drawn."""

_OUTLIERS_PERCENT = 2.0
_SLOWEST = 0.2
"""Flow that counts as full colour at least, in hundredths of the longer side: noise of a still shot stays white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The range of a control's values over a shot: `low` is drawn black, `high` white or in full colour."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One window's source for a control: whole frames in order, and the place of the window's crop.

    `lead` is true when one more frame comes first, from which only the motion to the next frame is taken.
    """

    frames: Iterable[Pixels]
    size: Size
    box: Box
    model_size: Size
    lead: bool = False
    layout: Callable[[int], Boxes] | None = None


def measure(control: str, frames: Iterable[tuple[Pixels, Pixels]], network: networks.Estimator | None) -> Scale | None:
    """Measure the scale of a shot from (frame, next frame) pairs; None for a control without a scale or without pairs.

    Raises:
        ValueError: a network is needed and missing.
    """
    if control not in MEASURED:
        return None
    if control == "flow":
        speeds = [np.linalg.norm(draw.flow_of(one, other), axis=-1) for one, other in frames]
        if not speeds:
            return None
        return Scale(low=0.0, high=max(_SLOWEST, float(np.percentile(np.concatenate(speeds, None), 99))))
    if network is None:
        raise ValueError(f"control {control}: expected its network, got none")
    near = [network.nearness(draw.at_most(frame, _DRAW_PX)).ravel() for frame, _ in frames]
    if not near:
        return None
    low, high = np.percentile(np.concatenate(near), (_OUTLIERS_PERCENT, 100 - _OUTLIERS_PERCENT))
    return Scale(low=float(low), high=float(high))


def control_video(
    control: str, source: Source, *, scale: Scale | None = None, network: networks.Estimator | None = None
) -> Pixels:
    """Draw the control of one window, (T, H, W, 3) uint8 at model size, frame by frame.

    Raises:
        ValueError: the control is unknown, or what it needs (scale, network, layout) is missing.
    """
    pictures = _painted(control, source, scale, network)
    return np.stack([draw.cropped(picture, source.size, source.box, source.model_size) for picture in pictures])


def simple_control(control: str, frames_THWC: Pixels) -> Pixels:
    """Draw a control that needs only the frames at model size: gray, scribble or plain.

    Raises:
        ValueError: the control is another one.
    """
    if control not in SIMPLE:
        raise ValueError(f"control: expected one of {', '.join(SIMPLE)}, got {control!r}")
    if control == "plain":
        return frames_THWC
    paint = draw.gray if control == "gray" else draw.scribble
    return np.stack([paint(frame) for frame in frames_THWC])


def _painted(control: str, source: Source, scale: Scale | None, network: networks.Estimator | None) -> Iterator[Pixels]:
    """Draw the control picture of each whole frame, at any scale."""
    if control == "flow" and scale is not None:
        return _flow_pictures(source, scale)
    frames = islice(source.frames, 1 if source.lead else 0, None)
    if control in LAYOUTS and source.layout is not None:
        return (_layout_picture(source.size, source.layout(index)) for index, _ in enumerate(frames))
    paint = None if network is None else _network_painter(control, scale, network)
    if paint is not None:
        return map(paint, frames)
    raise ValueError(f"control {control!r}: unknown, or without the scale, network or layout that it needs")


def _network_painter(
    control: str, scale: Scale | None, network: networks.Estimator
) -> Callable[[Pixels], Pixels] | None:
    """Return the function that draws a frame's control by a network; None for a control without a network or scale."""
    if control == "depth" and scale is not None:
        return partial(_depth_picture, network=network, scale=scale)
    if CONTROL_NETWORKS.get(control) == "pose":
        return partial(_pose_picture, network=network, faces=control == "pose")
    return None


def _flow_pictures(source: Source, scale: Scale) -> Iterator[Pixels]:
    """Draw the flow from each frame's predecessor; a shot's first frame shows the flow to its successor, as in VACE."""
    before: Pixels | None = None
    is_first = not source.lead
    for frame in source.frames:
        small = draw.at_most(frame, draw.FLOW_PX)
        if before is not None:
            picture = draw.flow_picture(draw.flow_of(before, small), scale.high)
            if is_first:
                yield picture
            is_first = False
            yield picture
        before = small
    if is_first and before is not None:  # a single frame
        yield np.full_like(before, 255)


def _depth_picture(frame: Pixels, network: networks.Estimator, scale: Scale) -> Pixels:
    return draw.scaled(network.nearness(draw.at_most(frame, _DRAW_PX)), scale.low, scale.high)


def _pose_picture(frame: Pixels, network: networks.Estimator, *, faces: bool) -> Pixels:
    small = draw.at_most(frame, _DRAW_PX)
    return networks.skeletons(Size(small.shape[1], small.shape[0]), network.people(small), faces=faces)


def _layout_picture(size: Size, boxes: Boxes) -> Pixels:
    """Draw a layout at most _DRAW_PX long, so that lines of a few pixels survive the way to the model's size."""
    scale = min(1.0, _DRAW_PX / max(size.width, size.height))
    small = Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))
    return draw.layout(small, [(number, _scaled_box(box, scale)) for number, box in boxes])


def _scaled_box(box: Box, scale: float) -> Box:
    left, top = round(box.x * scale), round(box.y * scale)
    return Box(left, top, max(1, round(box.right * scale) - left), max(1, round(box.bottom * scale) - top))
