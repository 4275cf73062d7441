"""An engine for tests around the model: instant, with pictures that differ clearly from the source's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vace_batch.vace.engine import Made
from vace_batch.vcu.unit import VCU


class Noise:
    """An engine that paints all over its windows."""

    def stream(self, vcus: Sequence[VCU]) -> Iterator[Made]:
        for index, vcu in enumerate(vcus):
            frames = np.random.default_rng(index).integers(0, 256, vcu.frames_THWC.shape, np.uint8)
            yield Made(index=index, frames=frames, seconds=0.0)
