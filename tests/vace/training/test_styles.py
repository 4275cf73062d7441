"""Styles change colour or tone where a viewer sees it."""

from __future__ import annotations

import numpy as np
import pytest

from vace_batch.vace.training.pictures import draw
from vace_batch.vace.training.styles import STYLES, styled


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_what_is_seen(style: str) -> None:
    frames = (draw(32, 32, np.random.default_rng(3)) * 60 + 127).astype(np.uint8)[None]
    assert np.abs(styled(frames, style).astype(int) - frames).mean() > 10
    assert styled(frames, None) is frames
