"""A window's frames and masks: on the canvas, at model size, with recovered pixels."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.media_files import Media, make
from vace_batch.background.patches import Patch
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.masks.store import make_mask
from vace_batch.planning.windows import Region, Window
from vace_batch.vcu.frames import canvas_frames, model_mask, with_recovered
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.reader import read_frames

SOURCE = Size(64, 48)
WHOLE = Box(0, 0, 64, 48)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("frames") / "clip.mp4"
    make(path, Media(width=64, height=48, num_frames=6))
    return str(path)


def window(box: Box, start: int = 0, stop: int = 5) -> Window:
    return Window(region=0, start=start, stop=stop, num_frames=5, box=box)


def test_a_window_inside_the_source_shows_the_source(clip: str) -> None:
    canvas = Canvas(size=SOURCE, source=WHOLE, kept=WHOLE)
    source = [frame.rgb() for frame in read_frames(clip)]
    box = Box(16, 8, 32, 32)
    shown = list(canvas_frames(clip, canvas, window(box), range(6), 0))
    assert [index for index, _ in shown] == [0, 1, 2, 3, 4]
    for index, pixels in shown:
        np.testing.assert_array_equal(pixels, source[index][box.slices])


def test_beyond_the_source_its_edge_is_repeated_and_missing_frames_are_gray(clip: str) -> None:
    canvas = Canvas(size=Size(96, 48), source=Box(16, 0, 64, 48), kept=Box(16, 0, 64, 48), before=2)
    box = Box(0, 0, 96, 48)
    shown = dict(canvas_frames(clip, canvas, window(box), range(2, 8), 0))
    assert (shown[0] == 127).all() and (shown[1] == 127).all()
    np.testing.assert_array_equal(shown[2][:, :16], np.repeat(shown[2][:, 16:17], 16, axis=1))
    np.testing.assert_array_equal(shown[2][:, 80:], np.repeat(shown[2][:, 79:80], 16, axis=1))


def test_a_source_that_has_become_shorter_is_named(clip: str) -> None:
    canvas = Canvas(size=SOURCE, source=WHOLE, kept=WHOLE)
    with pytest.raises(
        ClipError, match="source_changed: frames 4..8: only some of these frames could be read again"
    ) as raised:
        list(canvas_frames(clip, canvas, window(WHOLE, 4, 9), range(20), int(list(read_frames(clip))[4].pts)))
    assert raised.value.retryable


def test_a_model_pixel_is_masked_when_one_of_its_source_pixels_is() -> None:
    bits = np.zeros((48, 64), np.bool_)
    bits[17, 33] = True
    mask = make_mask(0, bits)
    region = Region(shot=0, start=0, stop=5, crop=SOURCE, size=Size(32, 32))
    made = model_mask(mask, None, SOURCE, Box(0, 0, 64, 48), region)
    assert made.shape == (32, 32) and made[17 * 32 // 48, 33 // 2]
    assert not model_mask(None, None, SOURCE, Box(0, 0, 64, 48), region).any()


def test_recovered_pixels_replace_only_what_is_known() -> None:
    crop = np.zeros((8, 8, 3), np.uint8)
    known = np.zeros((4, 4), np.bool_)
    known[0, 0] = known[3, 3] = True
    patch = Patch(index=0, box=Box(6, 6, 4, 4), rgb=np.full((4, 4, 3), 200, np.uint8), known=known)
    made = with_recovered(crop, Box(0, 0, 8, 8), patch)
    assert (made[6, 6] == 200).all() and made.sum() == 600
    assert with_recovered(crop, Box(20, 20, 8, 8), patch) is crop
