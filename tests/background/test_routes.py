"""Routes: frames that are too dark, or that show nothing new, are not gathered."""

from __future__ import annotations

import numpy as np

from vace_batch.background.poses import Pose, Segment
from vace_batch.background.routes import Route, choose_samples, reachable_frames
from vace_batch.geometry import Box, Size


def test_frames_too_dark_to_show_a_background_are_not_asked() -> None:
    def route(index: int, gain: float) -> Route:
        colours = {"gain": np.full(3, gain, np.float32), "offset": np.zeros(3, np.float32)}
        return Route(pose=Pose(index=index, to_anchor=np.eye(3), error_px=0.0, **colours))

    routes = [route(0, 9.0), route(1, 1.0), route(2, 2.0)]
    chosen = choose_samples(lambda start, stop: {}, routes, Box(0, 0, 20, 20), Size(20, 20))
    assert [each.pose.index for each in chosen] == [1, 2]
    assert choose_samples(lambda start, stop: {}, routes[:1], Box(0, 0, 20, 20), Size(20, 20)) == routes[:1]


def pose(index: int, x: float = 0.0, gain: float = 1.0) -> Pose:
    to_anchor = np.array([[1.0, 0, x], [0, 1, 0], [0, 0, 1]])
    colours = {"gain": np.full(3, gain, np.float32), "offset": np.full(3, 4, np.float32)}
    return Pose(index=index, to_anchor=to_anchor, error_px=0.0, **colours)


def test_frames_of_the_neighbours_are_reached_by_the_links() -> None:
    first = Segment(poses=(pose(0), pose(1, 10)), link=None)
    second = Segment(poses=(pose(2), pose(3, 10)), link=pose(1, 10, gain=2.0))
    onwards = reachable_frames([first, second], 0)
    assert [route.pose.index for route in onwards] == [0, 1, 2, 3]
    place = np.array([[[25.0, 5.0]]], np.float32)
    np.testing.assert_allclose(onwards[3].in_frame(place), [[[5, 5]]], atol=1e-4)
    gain, offset = onwards[3].colours()
    assert (gain == 2).all() and (offset == 12).all()
    back = reachable_frames([first, second], 1)
    np.testing.assert_allclose(back[1].in_frame(place), [[[25, 5]]], atol=1e-4)
    gain, offset = back[1].colours()
    assert (gain == 0.5).all() and (offset == 0).all()


def test_samples_are_spread_and_show_places_that_few_others_show() -> None:
    """A picture 40 px wide: frame 77 alone is moved, and shows the plate's right side."""
    routes = [Route(pose=pose(index, 30.0 if index == 77 else 0.0)) for index in range(200)]
    chosen = choose_samples(lambda start, stop: {}, routes, Box(0, 0, 80, 20), Size(40, 20))
    indices = [route.pose.index for route in chosen]
    assert len(indices) == len(set(indices)) == 32 and 77 in indices
    assert indices[0] == 0 and 199 in indices
