"""References: the subject is found, cut out when asked, and put on white."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import astronaut

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.vcu.references import cut_out, largest_face, prepare_references

SIZE = Size(96, 64)


def scene() -> np.ndarray:
    """A green disc with a black hole on noisy gray."""
    picture = np.random.default_rng(0).normal(120, 6, (80, 120, 3)).clip(0, 255).astype(np.uint8)
    y, x = np.mgrid[:80, :120]
    radius = np.hypot(y - 40, x - 70)
    picture[radius < 22] = (20, 180, 40)
    picture[radius < 5] = (0, 0, 0)
    return picture


def canvases(picture: np.ndarray, mask: np.ndarray | None = None, **fields: object) -> np.ndarray:
    row = Job(job_id="j", video_uri="v.mp4", task="r2v", reference_uris=("a.png",), **fields)  # type: ignore[arg-type]
    [canvas] = prepare_references(row, [picture], [mask], SIZE)
    return canvas


@pytest.mark.parametrize("box", [Box(0, 0, 120, 80), Box(44, 14, 52, 52)])
def test_what_stands_out_is_cut_out_whole(box: Box) -> None:
    y, x = np.mgrid[:80, :120]
    truth = np.hypot(y - 40, x - 70) < 22
    found = cut_out(scene(), box)
    assert (found & truth).sum() / (found | truth).sum() > 0.93
    np.testing.assert_array_equal(found, cut_out(scene(), box))


def test_nothing_to_cut_out_leaves_the_box() -> None:
    flat = np.full((40, 60, 3), 90, np.uint8)
    box = Box(10, 5, 30, 20)
    found = cut_out(flat, box)
    assert found.any() and not found[:5].any() and not found[:, 40:].any()
    assert cut_out(flat, Box(3, 3, 1, 1)).sum() == 1


def test_salient_is_cropped_to_its_subject_on_white() -> None:
    canvas = canvases(scene(), reference_mode="salient")
    green = (canvas[..., 1] > 150) & (canvas[..., 0] < 60)
    assert np.flatnonzero(green.any(axis=1))[[0, -1]].tolist() == [0, 63]
    assert (canvas[0, 0] == 255).all() and (canvas[:, :14] == 255).all()


def test_plain_is_the_whole_picture_and_a_background_goes_only_when_asked() -> None:
    plain = canvases(scene())
    assert (plain == 255).all(axis=-1).mean() < 0.1
    white = canvases(scene(), reference_background="white")
    assert (white == 255).all(axis=-1).mean() > 0.3
    box = BoxKey(x=44, y=14, width=52, height=52)
    boxed = canvases(scene(), reference_boxes=(box,), reference_mode="subject", reference_background="white")
    assert (boxed[32, 48] == 0).all() and (boxed[32, 35] == (20, 180, 40)).all()
    assert (boxed[2, 18] == 255).all()


def test_the_largest_face_is_found_with_its_hair_and_chin() -> None:
    face = largest_face(astronaut())
    assert face.intersect(Box(180, 70, 90, 110)) == Box(180, 70, 90, 110)
    assert face.width < 300
    small = canvases(astronaut(), reference_mode="face")
    whole = canvases(astronaut())
    assert np.abs(small.astype(int) - whole).mean() > 10
    with pytest.raises(ClipError, match="reference 0: no frontal face was found"):
        canvases(scene(), reference_mode="face")


def test_a_given_mask_wins_and_must_fit() -> None:
    mask = np.zeros((80, 120), np.uint8)
    mask[10:30, 20:50] = 255
    canvas = canvases(scene(), mask, reference_mode="salient")
    assert (canvas == 255).all(axis=-1).sum() == 0 and canvas.std() < 20
    with pytest.raises(ClipError, match="reference 0: expected a mask of 120x80, got 60x80"):
        canvases(scene(), mask[:, :60])
    with pytest.raises(ClipError, match="no white pixel"):
        canvases(scene(), np.zeros_like(mask))
