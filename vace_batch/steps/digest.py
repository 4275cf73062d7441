"""Digest the masks and recovered pixels of one window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vace_batch.background.patches import PatchReader
from vace_batch.masks.store import MaskReader
from vace_batch.planning.windows import Window
from vace_batch.storage import files as storage


def known_digest(masks: Sequence[MaskReader], recovered: PatchReader | None, new: range, window: Window) -> str:
    """Digest a window's masks, its recovered pixels, and the place of its new frames.

    Frames count from the window's first frame, so equal content elsewhere in time has an equal digest. `masks` count in
    order.
    """
    parts: list[str | bytes] = [repr((new.start - window.start, new.stop - window.start))] if new else []
    for number, reader in enumerate(masks):
        for mask in reader.get(window.start, window.stop).values():
            parts += [repr((number, mask.index - window.start, mask.box)), np.packbits(mask.bits).tobytes()]
    for patch in (recovered.get(window.start, window.stop) if recovered else {}).values():
        parts += [repr((patch.index - window.start, patch.box)), patch.rgb.tobytes()]
    return storage.digest(*parts)
