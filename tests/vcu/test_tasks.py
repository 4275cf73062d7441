"""Tasks: the known, neutral and generated pixels of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.data import astronaut

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.presets import WAN_NEGATIVE_PROMPT
from vace_batch.vcu.controls.videos import simple_control
from vace_batch.vcu.references import fit_reference
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.tasks import WindowArrays, WindowSettings, make_vcu, outpainting, restyle
from vace_batch.vcu.unit import VCU

SAMPLING = ResolvedSampling(num_inference_steps=2, guidance_scale=5.0, flow_shift=3.0)
SETTINGS = WindowSettings(window_id="w", sampling=SAMPLING, prompt="p", negative_prompt="n", seed=3)

FRAMES = np.stack([astronaut()[k : k + 64, 200:296] for k in range(0, 50, 10)])
MASK = np.zeros(FRAMES.shape[:3], np.bool_)
MASK[:, 16:40, 20:70] = True


def job(task: str, **fields: object) -> Job:
    return Job(job_id="j", video_uri="v.mp4", task=task, **fields)  # type: ignore[arg-type]


def make(row: Job, references: list[np.ndarray] | None = None, **more: Any) -> VCU:
    arrays = WindowArrays(frames_THWC=FRAMES, mask_THW=MASK, references=references or [], **more)
    return make_vcu(row, arrays, window_id="w", seed=3, sampling=SAMPLING)


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
    drawn = simple_control(control, FRAMES)
    vcu = make(job("restyle", control=control))
    whole = restyle(FRAMES, None, SETTINGS, controls=[drawn])
    assert whole.mask_THW.all() and not whole.neutral_THW.any() and not vcu.neutral_THW.any()
    np.testing.assert_array_equal(whole.frames_THWC, drawn)
    np.testing.assert_array_equal(vcu.frames_THWC[~MASK], FRAMES[~MASK])
    np.testing.assert_array_equal(vcu.frames_THWC[MASK], drawn[MASK])
    np.testing.assert_array_equal(vcu.mask_THW, MASK)


def test_of_two_controls_the_second_rules_under_the_mask_and_all_is_drawn_anew() -> None:
    vcu = make(job("restyle", control="gray+scribble"))
    gray, scribble = (simple_control(name, FRAMES) for name in ("gray", "scribble"))
    assert vcu.mask_THW.all() and not vcu.neutral_THW.any()
    np.testing.assert_array_equal(vcu.frames_THWC[MASK], scribble[MASK])
    np.testing.assert_array_equal(vcu.frames_THWC[~MASK], gray[~MASK])


def test_a_control_that_needs_more_than_the_frames_is_given_by_name() -> None:
    depth = FRAMES[:, ::-1].copy()
    row = job("restyle", control="depth")
    vcu = make(row, controls={"depth": depth})
    np.testing.assert_array_equal(vcu.frames_THWC[MASK], depth[MASK])
    with pytest.raises(KeyError):
        make(row)


def test_text_to_video_knows_nothing_and_takes_no_reference() -> None:
    vcu = make(job("t2v", prompt="a lake"))
    assert vcu.mask_THW.all() and vcu.neutral_THW.all() and vcu.references == ()
    assert vcu.inactive_is_neutral and vcu.reactive_is_neutral


def test_references_to_video_take_one_to_three() -> None:
    red = np.full((10, 10, 3), (255, 0, 0), np.uint8)
    vcu = make(job("r2v"), [red, red, red])
    assert vcu.mask_THW.all() and vcu.neutral_THW.all() and len(vcu.references) == 3
    for wrong in ([], [red] * 4):
        with pytest.raises(ValueError, match=f"expected 1..3 references, got {len(wrong)}"):
            make(job("r2v"), wrong)


def test_outpainting_knows_the_inside_and_says_nothing_outside() -> None:
    vcu = outpainting(FRAMES, ~MASK, SETTINGS)
    np.testing.assert_array_equal(vcu.mask_THW, MASK)
    np.testing.assert_array_equal(vcu.neutral_THW, MASK)
    np.testing.assert_array_equal(make(job("outpainting")).mask_THW, vcu.mask_THW)


@pytest.mark.parametrize("known", [[0], [4], [0, 4], [0, 1, 2], [3, 4], [0, 1, 4]])
def test_extension_keeps_the_known_frames_and_says_nothing_in_the_others(known: list[int]) -> None:
    known_T = np.isin(np.arange(len(FRAMES)), known)
    vcu = make(job("extension"), known_T=known_T)
    for t, is_known in enumerate(known_T):
        assert (vcu.mask_THW[t] == (not is_known)).all() and (vcu.neutral_THW[t] == (not is_known)).all()
        np.testing.assert_array_equal(vcu.frames_THWC[t], FRAMES[t])


def test_an_extension_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="with a known frame"):
        make(job("extension"), known_T=np.zeros(len(FRAMES), np.bool_))


FIRST = np.arange(len(FRAMES)) == 0


def test_move_is_a_known_first_frame_and_a_layout_after_it() -> None:
    layout = np.full_like(FRAMES, 9)
    vcu = make(
        job("composition", compose="move", control="layout_bbox"), controls={"layout_bbox": layout}, known_T=FIRST
    )
    assert not vcu.mask_THW[0].any() and vcu.mask_THW[1:].all() and not vcu.neutral_THW.any()
    np.testing.assert_array_equal(vcu.frames_THWC[0], FRAMES[0])
    np.testing.assert_array_equal(vcu.frames_THWC[1:], layout[1:])


def test_expand_is_an_outpainted_first_frame_and_nothing_after_it() -> None:
    red = np.full((10, 10, 3), (255, 0, 0), np.uint8)
    vcu = make(job("composition", compose="expand"), [red], known_T=FIRST)
    np.testing.assert_array_equal(vcu.mask_THW[0], MASK[0])
    np.testing.assert_array_equal(vcu.neutral_THW[0], MASK[0])
    assert vcu.mask_THW[1:].all() and vcu.neutral_THW[1:].all() and len(vcu.references) == 1


def test_swap_is_inpainting_and_animate_a_control_with_references() -> None:
    red = np.full((10, 10, 3), (255, 0, 0), np.uint8)
    swap = make(job("composition", compose="swap"), [red])
    np.testing.assert_array_equal(swap.mask_THW, MASK)
    np.testing.assert_array_equal(swap.neutral_THW, MASK)
    pose = FRAMES // 2
    animate = make(job("composition", compose="animate", control="pose"), [red], controls={"pose": pose})
    assert animate.mask_THW.all() and not animate.neutral_THW.any()
    np.testing.assert_array_equal(animate.frames_THWC, pose)
    reference = make(job("composition", compose="reference"), [red])
    assert reference.mask_THW.all() and reference.neutral_THW.all()
    assert all(len(vcu.references) == 1 for vcu in (swap, animate, reference))


def test_extension_and_repaint_change_the_mask_of_new_frames_only() -> None:
    vcu = make(job("composition", compose="extension+repaint"), known_T=FIRST)
    assert not vcu.mask_THW[0].any()
    np.testing.assert_array_equal(vcu.mask_THW[1:], MASK[1:])


def test_reference_is_cropped_enlarged_and_centred_on_white() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[10:30, 50:60] = (0, 200, 0)
    canvas = fit_reference(picture, Box(50, 10, 10, 20), Size(96, 64))
    assert canvas.shape == (64, 96, 3)
    assert (canvas[:, 32:64] == (0, 200, 0)).all()
    assert (canvas[:, :32] == 255).all() and (canvas[:, 64:] == 255).all()


def test_a_large_reference_shrinks_to_the_canvas() -> None:
    canvas = fit_reference(astronaut(), None, Size(96, 64))
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


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="task: expected one of removal, inpainting, .*, got 'dance'"):
        make(job("dance"))
