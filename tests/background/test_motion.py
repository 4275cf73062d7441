"""Motion between points: the simplest motion that explains the points, or None for too few points."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vace_batch.background.motion import Fit, fit_motion, project

RNG = np.random.default_rng(3)
POINTS = RNG.uniform(0, 300, (80, 2)).astype(np.float32)
SHIFT = np.array([[1, 0, 7.25], [0, 1, -3.5], [0, 0, 1]])
TURN = np.array([[1.02, -0.1, 4], [0.1, 1.02, 9], [0, 0, 1]])
TILT = np.array([[1.0, 0.04, 2], [0.01, 1.06, 3], [0.0003, 0.0001, 1]])


def fitted(motion: NDArray[np.float64], points: NDArray[np.float32] = POINTS) -> Fit:
    fit = fit_motion(points, project(motion, points))
    assert fit is not None
    return fit


def test_points_that_stay_are_no_motion_at_all() -> None:
    jitter = RNG.normal(0, 0.01, POINTS.shape).astype(np.float32)
    fit = fit_motion(POINTS, POINTS + jitter)
    assert fit is not None and fit.is_still


@pytest.mark.parametrize("motion", [SHIFT, TURN, TILT])
def test_the_motion_is_found(motion: NDArray[np.float64]) -> None:
    fit = fitted(motion)
    assert not fit.is_still and fit.error_px < 0.05
    np.testing.assert_allclose(project(fit.matrix, POINTS), project(motion, POINTS), atol=0.1)


def test_a_shift_is_a_shift_and_nothing_more() -> None:
    np.testing.assert_array_equal(fitted(SHIFT).matrix[:2, :2], np.eye(2))
    assert (fitted(TURN).matrix[2] == [0, 0, 1]).all() and fitted(TILT).matrix[2, 0] != 0


def test_a_slight_zoom_is_no_shift() -> None:
    assert fitted(np.diag([1.004, 1.004, 1.0])).matrix[0, 0] == pytest.approx(1.004, abs=1e-4)


def test_points_of_other_things_do_not_count() -> None:
    then = project(SHIFT, POINTS)
    then[:30] += RNG.uniform(20, 60, (30, 2)).astype(np.float32)
    fit = fit_motion(POINTS, then)
    assert fit is not None and fit.inliers <= 52
    np.testing.assert_allclose(project(fit.matrix, POINTS), project(SHIFT, POINTS), atol=0.1)


@pytest.mark.parametrize("motion", [np.diag([-1.0, 1, 1]), np.diag([0.2, 0.2, 1])])
def test_mirrored_and_collapsed_pictures_are_no_camera(motion: NDArray[np.float64]) -> None:
    assert fit_motion(POINTS, project(motion, POINTS)) is None


def test_few_points_and_noise_tell_nothing() -> None:
    assert fit_motion(POINTS[:9], POINTS[:9]) is None
    assert fit_motion(POINTS, RNG.uniform(0, 300, POINTS.shape).astype(np.float32)) is None
    assert fitted(TURN, POINTS[:12]).error_px < 0.1
