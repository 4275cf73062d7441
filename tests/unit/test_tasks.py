"""Tasks: what each one says of every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import astronaut

from vace_batch import tasks
from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.job import BoxKey, Job
from vace_batch.profiles import WAN_NEGATIVE_PROMPT, ResolvedSampling

SAMPLING = ResolvedSampling(num_inference_steps=2, guidance_scale=5.0, flow_shift=3.0)
SETTINGS = tasks.WindowSettings(window_id="w", sampling=SAMPLING, prompt="p", negative_prompt="n", seed=3)

FRAMES = np.stack([astronaut()[k : k + 64, 200:296] for k in range(0, 50, 10)])
MASK = np.zeros(FRAMES.shape[:3], np.bool_)
MASK[:, 16:40, 20:70] = True


def job(task: str, **fields: object) -> Job:
    return Job(job_id="j", video_uri="v.mp4", task=task, **fields)  # type: ignore[arg-type]


def make(row: Job, references: list[np.ndarray] | None = None, mask: np.ndarray = MASK) -> tasks.VCU:
    return tasks.make_vcu(
        row,
        window_id="w",
        frames_THWC=FRAMES,
        mask_THW=mask,
        references=references or [],
        seed=3,
        sampling=SAMPLING,
    )


def test_removal_says_nothing_under_the_mask_and_shows_no_reference() -> None:
    vcu = make(job("removal"))
    np.testing.assert_array_equal(vcu.neutral_THW, MASK)
    np.testing.assert_array_equal(vcu.mask_THW, MASK)
    np.testing.assert_array_equal(vcu.frames_THWC, FRAMES)
    assert vcu.references == ()
    assert (vcu.prompt, vcu.negative_prompt) == ("", "")
    assert vcu.reactive_is_neutral


def test_negative_prompt_of_the_job_wins_even_when_empty() -> None:
    assert make(job("inpainting")).negative_prompt == WAN_NEGATIVE_PROMPT
    assert make(job("inpainting", negative_prompt="")).negative_prompt == ""
    assert make(job("removal", negative_prompt="person")).negative_prompt == "person"


def test_inpainting_takes_prompt_and_references_in_order() -> None:
    red, blue = (np.full((10, 10, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    vcu = make(job("inpainting", prompt="a car"), [red, blue])
    assert vcu.prompt == "a car"
    assert [picture[32, 48].tolist() for picture in vcu.references] == [[255, 0, 0], [0, 0, 255]]
    np.testing.assert_array_equal(vcu.neutral_THW, MASK)


@pytest.mark.parametrize("control", ["gray", "scribble", "plain"])
def test_restyle_shows_the_control_under_the_mask_and_the_source_elsewhere(control: str) -> None:
    vcu = make(job("restyle", control=control))
    whole = tasks.restyle(FRAMES, None, SETTINGS, control=control)
    assert whole.mask_THW.all() and not whole.neutral_THW.any() and not vcu.neutral_THW.any()
    np.testing.assert_array_equal(vcu.frames_THWC[~MASK], FRAMES[~MASK])
    np.testing.assert_array_equal(vcu.frames_THWC[MASK], whole.frames_THWC[MASK])
    np.testing.assert_array_equal(vcu.mask_THW, MASK)
    assert (control == "plain") == np.array_equal(whole.frames_THWC, FRAMES)


def test_gray_is_gray() -> None:
    frames = tasks.restyle(FRAMES, None, SETTINGS, control="gray").frames_THWC
    assert (frames == frames[..., :1]).all()
    assert frames[..., 0].std() > 20


def test_scribble_draws_dark_lines_on_white_only_where_there_are_edges() -> None:
    frames = np.full((1, 64, 64, 3), 90, np.uint8)
    frames[:, :, 32:] = 200
    drawn = tasks.restyle(frames, None, SETTINGS, control="scribble").frames_THWC[0, :, :, 0]
    assert (drawn[:, :24] == 255).all() and (drawn[:, 40:] == 255).all()
    assert drawn[32, 28:36].min() < 100


def test_scribble_of_a_frame_does_not_depend_on_the_other_frames() -> None:
    alone = tasks.restyle(FRAMES[:1], None, SETTINGS, control="scribble").frames_THWC
    together = tasks.restyle(FRAMES, None, SETTINGS, control="scribble").frames_THWC
    np.testing.assert_array_equal(alone[0], together[0])


def test_reference_is_cropped_enlarged_and_centred_on_white() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[10:30, 50:60] = (0, 200, 0)
    canvas = tasks.fit_reference(picture, Box(50, 10, 10, 20), Size(96, 64))
    assert canvas.shape == (64, 96, 3)
    assert (canvas[:, 32:64] == (0, 200, 0)).all()
    assert (canvas[:, :32] == 255).all() and (canvas[:, 64:] == 255).all()


def test_a_large_reference_shrinks_to_the_canvas() -> None:
    canvas = tasks.fit_reference(astronaut(), None, Size(96, 64))
    assert (canvas[:, :16] == 255).all() and (canvas[:, 80:] == 255).all()
    assert canvas[:, 16:80].std() > 20


def test_reference_boxes_are_clipped_to_the_picture_and_refused_outside() -> None:
    picture = np.zeros((50, 100, 3), np.uint8)
    picture[:, 80:] = 200
    box = BoxKey(x=80, y=-10, width=50, height=200)
    vcu = make(job("inpainting", reference_boxes=(box,)), [picture])
    centre = vcu.references[0][32, 48]
    assert centre.tolist() == [200, 200, 200]
    outside = BoxKey(x=200, y=0, width=5, height=5)
    with pytest.raises(ClipError, match=r"reference_boxes\[0\]: expected a box in the 100x50 picture"):
        make(job("inpainting", reference_boxes=(outside,)), [picture])


def test_unknown_tasks_and_controls_are_refused() -> None:
    with pytest.raises(ValueError, match="control: expected one of gray, scribble, plain, got 'depth'"):
        tasks.restyle(FRAMES, None, SETTINGS, control="depth")
    with pytest.raises(ValueError, match="task: expected removal, inpainting or restyle, got 'dance'"):
        make(job("dance"))
