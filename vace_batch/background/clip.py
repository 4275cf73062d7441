"""Recover the background of a clip: store the recovered pixels, and the holes that are left for the model."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vace_batch.background.camera import track_camera
from vace_batch.background.patches import Patch, PatchReader, write_patches
from vace_batch.background.recover import BackgroundSettings, Recovered, recover
from vace_batch.background.shadow import grow_into_shadows
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.refine import split_parts
from vace_batch.masks.store import Bits, FrameMask, MaskReader, MaskSummary, make_mask, write_masks
from vace_batch.planning.stills import StillSegments
from vace_batch.planning.windows import Shot, WindowLimits
from vace_batch.video.frame import Frame
from vace_batch.video.read_ahead import CHUNK_FRAMES
from vace_batch.video.reader import read_frames

SPECK_PX = 40
"""Smaller unknown parts take the smooth guess between their known neighbours; smaller known ones are given up."""

HALO_PX = 4
"""Beyond a mask that nobody sized by hand, a codec's traces of the object are taken away too, where that is safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSource:
    """A local video with the time stamps of its frames and its stored masks."""

    path: str
    size: Size
    pts: Sequence[int]
    masks: str

    def frames(self, start: int, stop: int) -> Iterator[Frame]:
        return read_frames(self.path, start, stop, start_pts=self.pts[start])


def recover_clip(
    clip: ClipSource, shots: Sequence[Shot], patches: str, holes: str, job: Job, limits: WindowLimits
) -> tuple[MaskSummary, float, StillSegments]:
    """Write recovered pixels to `patches` and the remaining masks to `holes`, both local paths.

    Returns the summary of the holes, the share of masked pixels that was recovered, and the holes that lie in a still
    picture. Patches reach beyond the masks into their halo and, where the job allows it, into the shadows of the masked
    objects; holes never do.
    """
    masks = MaskReader(clip.masks)
    masked_shots = [shot for shot in shots if _has_masks(masks, shot)]
    # A job that says how far its masks are dilated is taken at its word: no pixel beyond changes.
    settings = BackgroundSettings(bridging=limits.bridging, halo_px=HALO_PX if job.dilate is None else 0)
    # What a shadow may hide of protected things is not asked.
    shadows = job.mask_shadow == "auto" and not job.protects
    stillness = StillSegments()
    found = (each for shot in masked_shots for each in _patches(clip, masks, shot, shadows, settings, stillness))
    write_patches(patches, found)
    masked = left_over = 0

    def left() -> Iterator[FrameMask]:
        nonlocal masked, left_over
        reader = PatchReader(patches)
        for start in range(0, len(clip.pts), CHUNK_FRAMES):
            found = reader.get(start, start + CHUNK_FRAMES)
            for index, mask in masks.get(start, start + CHUNK_FRAMES).items():
                masked += int(mask.bits.sum())
                hole = _without(mask, found.get(index))
                if hole is not None:
                    left_over += int(hole.bits.sum())
                    yield hole

    return write_masks(holes, clip.size, left()), (masked - left_over) / max(1, masked), stillness


def _has_masks(masks: MaskReader, shot: Shot) -> bool:
    return any(shot.start <= index < shot.stop for index in masks.boxes())


def _patches(
    clip: ClipSource,
    masks: MaskReader,
    shot: Shot,
    shadows: bool,
    settings: BackgroundSettings,
    stillness: StillSegments,
) -> Iterator[Patch]:
    camera = track_camera(clip.frames, masks.get, shot, clip.size)
    stillness.segments += [(segment.start, segment.stop) for segment in camera]
    asked = masks
    with contextlib.ExitStack() as stack:
        if shadows:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vace-batch-"))
            grown = posixpath.join(folder, "grown.parquet")
            write_masks(grown, clip.size, grow_into_shadows(clip.frames, masks.get, shot, clip.size, camera))
            masks = MaskReader(grown)
        for found in recover(clip.frames, masks.get, shot, clip.size, settings, camera):
            known = without_specks(found, masks.get(found.index, found.index + 1)[found.index].within(found.box))
            patch = Patch(index=found.index, box=found.box, rgb=found.rgb, known=known)
            mask = asked.get(found.index, found.index + 1).get(found.index)
            stillness.restless[found.index] = () if mask is None else _restless(_without(mask, patch), found)
            if known.any():
                yield patch


def _restless(hole: FrameMask | None, found: Recovered) -> tuple[Box, ...]:
    """Return the boxes of the parts of a hole that have motion beside them."""
    parts = split_parts(hole) if hole is not None else []
    return tuple(part.box for part in parts if (part.bits & ~found.still[part.box.slices_in(found.box)]).any())


def without_specks(found: Recovered, mask: Bits) -> Bits:
    """Remove specks from known pixels (h, w), and fill specks in them: no speck is worth a seam or a window."""
    known = large_parts(found.known, SPECK_PX)
    return known | (mask & ~known & ~large_parts(mask & ~known, SPECK_PX))


def large_parts(bits: Bits, least: int) -> Bits:
    """Keep the 4-connected parts of (h, w) bool `bits` that have at least `least` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bits.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    return np.asarray(large[labels], np.bool_)


def _without(mask: FrameMask, patch: Patch | None) -> FrameMask | None:
    if patch is None:
        return mask
    bits = mask.bits.copy()
    common = mask.box.intersect(patch.box)
    assert common is not None
    bits[common.slices_in(mask.box)] &= ~patch.known[common.slices_in(patch.box)]
    return make_mask(mask.index, bits, (mask.box.x, mask.box.y))
