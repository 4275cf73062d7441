"""Control latents: neutral pixels and the rules that shrink masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.engine_windows import window
from vace_batch.vace.encode import latent_mask, nearest_frames, normalise


def test_neutral_is_exactly_zero_and_pixels_fill_the_range() -> None:
    vcu = window(5)
    frames = vcu.frames_THWC.copy()
    frames[0, 0, 0], frames[0, 0, 1] = (0, 127, 128), (255, 255, 255)
    pixels = normalise(replace(vcu, frames_THWC=frames), torch.device("cpu"))
    neutral = torch.from_numpy(vcu.neutral_THW)
    assert neutral.any() and (pixels[:, neutral] == 0.0).all()
    assert (pixels[:, ~neutral] != 0.0).all()
    assert pixels[:, 0, 0, 0].tolist() == pytest.approx([-1.0, -1 / 255, 1 / 255], abs=1e-7)
    assert pixels[:, 0, 0, 1].tolist() == [1.0, 1.0, 1.0]


def test_nearest_rule_is_torch_nearest_exact() -> None:
    assert nearest_frames(81)[:10] == [1, 5, 9, 13, 17, 21, 25, 28, 32, 36]
    for num_frames in range(1, 242, 4):
        times = torch.arange(num_frames).float().view(1, 1, -1)
        resized = nn.functional.interpolate(times, size=(num_frames + 3) // 4, mode="nearest-exact")
        assert resized.flatten().int().tolist() == nearest_frames(num_frames)


def test_mask_rules_differ_where_an_object_is_fast() -> None:
    mask = torch.zeros(81, 16, 16, dtype=torch.bool)
    mask[[0, 2, 28], 3, 12] = True
    nearest, covered = latent_mask(mask, "nearest"), latent_mask(mask, "max4")
    assert nearest.shape == covered.shape == (64, 21, 2, 2)
    channel = 3 * 8 + 4
    assert covered[channel, :, 0, 1].nonzero().flatten().tolist() == [0, 1, 7]
    assert nearest[channel, :, 0, 1].nonzero().flatten().tolist() == [7]
    assert covered.sum() == 3 and nearest.sum() == 1


def test_mask_rules_refuse_what_they_cannot_shrink() -> None:
    with pytest.raises(ValueError, match="expected T = 4n.1, H and W multiples of 8, got .4, 16, 16."):
        latent_mask(torch.zeros(4, 16, 16, dtype=torch.bool), "max4")
    with pytest.raises(ValueError, match="mask_rule: expected nearest or max4, got 'mean'"):
        latent_mask(torch.zeros(5, 16, 16, dtype=torch.bool), "mean")
