"""Fit the simplest motion that takes points of one frame to points of another; points are (N, 2) float32, x and y."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.background.parallax import Mesh, Points

Matrix = npt.NDArray[Any]

MIN_INLIERS = 10
_INLIER_PX = 1.5
_MIN_FOR_HOMOGRAPHY = 24
_MIN_INLIER_SHARE = 0.4
# A simpler motion is preferred while its error exceeds the best motion's by no more than this: a still camera stays
# still.
_SIMPLER_PX = 0.04


@dataclass(slots=True, kw_only=True)
class Fit:
    """A motion to the anchor at the tracker's size, the error of its `inliers` points, and its meshes."""

    matrix: Matrix
    error_px: float
    inliers: int
    there: Mesh | None = None
    back: Mesh | None = None
    bend_px: float = 0.0

    @property
    def is_still(self) -> bool:
        return bool(np.array_equal(self.matrix, np.eye(3)))


def project(matrix: Matrix, points: npt.NDArray[np.float32 | np.float64]) -> Points:
    """Map (N, 2) points by a homography."""
    return (
        cv2.perspectiveTransform(points.reshape(-1, 1, 2).astype(np.float64), matrix).reshape(-1, 2).astype(np.float32)
    )


def fit_motion(now: Points, then: Points, loose: float = 1.0) -> Fit | None:
    """Fit the simplest of no motion, shift, similarity and homography that takes points `now` to `then`.

    None if there are too few points, or too few agree.
    """
    if len(now) < MIN_INLIERS:
        return None
    matrix, kept = cv2.findHomography(now, then, cv2.RANSAC, _INLIER_PX * loose, maxIters=2000, confidence=0.999)
    if len(now) < _MIN_FOR_HOMOGRAPHY:
        matrix, kept = cv2.estimateAffinePartial2D(
            now, then, method=cv2.RANSAC, ransacReprojThreshold=_INLIER_PX * loose
        )
        matrix = None if matrix is None else np.vstack([matrix, [0, 0, 1]])
    if matrix is None or kept.sum() < max(MIN_INLIERS, _MIN_INLIER_SHARE * len(now)) or not _is_sane(matrix):
        return None
    inlier = kept[:, 0] > 0
    now, then = now[inlier], then[inlier]
    best = _error(matrix, now, then)
    for simpler in _simpler_motions(now, then):
        error = _error(simpler, now, then)
        if error**2 <= best**2 + _SIMPLER_PX**2:
            return Fit(matrix=simpler, error_px=error, inliers=len(now))
    return Fit(matrix=np.asarray(matrix, np.float64), error_px=best, inliers=len(now))


def _simpler_motions(now: Points, then: Points) -> Iterator[Matrix]:
    yield np.eye(3)
    shift = np.eye(3)
    shift[:2, 2] = np.median(then - now, axis=0)
    yield shift
    similar, _ = cv2.estimateAffinePartial2D(now, then, method=cv2.LMEDS)
    if similar is not None:
        yield np.vstack([similar, [0, 0, 1]])


def _error(matrix: Matrix, now: Points, then: Points) -> float:
    return float(np.median(np.linalg.norm(project(matrix, now) - then, axis=1)))


def _is_sane(matrix: Matrix) -> bool:
    """Return whether a homography neither mirrors nor collapses the picture, and has no horizon inside it."""
    area = float(np.linalg.det(matrix[:2, :2] / matrix[2, 2]))
    return 0.2 < area < 5 and abs(matrix[2, 0]) + abs(matrix[2, 1]) < 0.002
