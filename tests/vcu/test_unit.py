"""The VCU: refused arrays, its keys, and its unchanged arrival in another process."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU

SAMPLING = ResolvedSampling(num_inference_steps=2, guidance_scale=5.0, flow_shift=3.0)


def make(num_frames: int = 5, height: int = 32, width: int = 48, references: int = 1) -> VCU:
    rng = np.random.default_rng(num_frames)
    frames = rng.integers(0, 256, (num_frames, height, width, 3), np.uint8)
    mask = rng.random(frames.shape[:3]) > 0.7
    return VCU(
        window_id="w1",
        frames_THWC=frames,
        mask_THW=mask,
        neutral_THW=mask & (rng.random(mask.shape) > 0.5),
        references=tuple(frames[:references]),
        prompt="a wall",
        seed=7,
        sampling=SAMPLING,
    )


def test_travels_unchanged_with_packed_masks() -> None:
    vcu = make()
    sent = pickle.dumps(vcu, protocol=5)
    back = pickle.loads(sent)
    for name in ("frames_THWC", "mask_THW", "neutral_THW"):
        np.testing.assert_array_equal(getattr(back, name), getattr(vcu, name))
        assert getattr(back, name).dtype == getattr(vcu, name).dtype
    np.testing.assert_array_equal(back.references[0], vcu.references[0])
    assert (back.window_id, back.prompt, back.negative_prompt, back.seed) == ("w1", "a wall", None, 7)
    assert back.sampling == SAMPLING
    assert abs(len(sent) - vcu.nbytes) < 1000
    assert vcu.nbytes == vcu.frames_THWC.nbytes * 6 // 5 + 2 * vcu.mask_THW.size // 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames_THWC": np.zeros((4, 32, 48, 3), np.uint8)}, "frames: num_frames: expected 4n.1, got 4"),
        ({"frames_THWC": np.zeros((5, 30, 48, 3), np.uint8)}, "expected multiples of 16, got 48x30"),
        ({"frames_THWC": np.zeros((5, 32, 48, 3), np.float32)}, "frames: expected uint8 .T, H, W, 3., got float32"),
        ({"frames_THWC": np.zeros((5, 32, 48), np.uint8)}, "frames: expected uint8"),
        ({"mask_THW": np.zeros((5, 32, 64), np.bool_)}, "mask: expected bool .5, 32, 48. like the frames"),
        ({"mask_THW": np.zeros((5, 32, 48), np.uint8)}, "mask: expected bool .* got uint8"),
        ({"neutral_THW": np.zeros((1, 32, 48), np.bool_)}, "neutral: expected bool"),
        ({"references": (np.zeros((16, 48, 3), np.uint8),)}, "reference 0: expected uint8 .32, 48, 3. like a frame"),
    ],
)
def test_refuses_what_does_not_fit_and_says_what_was_expected(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"VCU w1 .*{message}"):
        replace(make(), **change)  # type: ignore[arg-type]


def test_keys_say_what_can_share_a_forward() -> None:
    vcu = make()
    assert vcu.batch_key == replace(vcu, seed=8, prompt="other", window_id="w2").batch_key
    assert vcu.shape_key != make(references=0).shape_key
    assert vcu.shape_key != make(height=48, width=32).shape_key
    other = replace(vcu, sampling=replace(SAMPLING, flow_shift=5.0))
    assert (vcu.shape_key == other.shape_key, vcu.batch_key == other.batch_key) == (True, False)


def test_tokens_count_references() -> None:
    assert make(num_frames=9, references=2).num_tokens == (3 + 2) * 2 * 3


def test_neutral_streams_are_known_without_looking_at_pixels() -> None:
    vcu = make()
    assert not vcu.inactive_is_neutral and not vcu.reactive_is_neutral
    assert replace(vcu, neutral_THW=vcu.mask_THW).reactive_is_neutral
    assert not replace(vcu, neutral_THW=vcu.mask_THW).inactive_is_neutral
    assert replace(vcu, mask_THW=np.ones_like(vcu.mask_THW)).inactive_is_neutral
