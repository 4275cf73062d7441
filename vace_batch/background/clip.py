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
"""Smaller unknown parts take the smooth guess between their known neighbours; smaller known parts are dropped."""

HALO_PX = 4
"""Reach of a codec's traces round a mask of default dilation; they are removed where that is safe."""


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
    # A job with a dilation of its own is taken literally: no pixel beyond it changes.
    settings = BackgroundSettings(bridging=limits.bridging, halo_px=HALO_PX if job.dilate is None else 0)
    # A shadow may lie on protected things: masks do not grow where something is protected.
    shadows = job.mask_shadow == "auto" and not job.protects
    stillness = StillSegments()
    write_patches(
        patches, (patch for shot in masked_shots for patch in _patches(clip, masks, shot, shadows, settings, stillness))
    )
    masked = unrecovered = 0

    def remaining() -> Iterator[FrameMask]:
        nonlocal masked, unrecovered
        reader = PatchReader(patches)
        for start in range(0, len(clip.pts), CHUNK_FRAMES):
            known = reader.get(start, start + CHUNK_FRAMES)
            for index, mask in masks.get(start, start + CHUNK_FRAMES).items():
                masked += int(mask.bits.sum())
                hole = _without(mask, known.get(index))
                if hole is not None:
                    unrecovered += int(hole.bits.sum())
                    yield hole

    return write_masks(holes, clip.size, remaining()), (masked - unrecovered) / max(1, masked), stillness


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
    job_masks = masks
    with contextlib.ExitStack() as stack:
        if shadows:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vace-batch-"))
            grown = posixpath.join(folder, "grown.parquet")
            write_masks(grown, clip.size, grow_into_shadows(clip.frames, masks.get, shot, clip.size, camera))
            masks = MaskReader(grown)
        for recovered in recover(clip.frames, masks.get, shot, clip.size, settings, camera):
            grown_mask = masks.get(recovered.index, recovered.index + 1)[recovered.index]
            known = without_specks(recovered, grown_mask.within(recovered.box))
            patch = Patch(index=recovered.index, box=recovered.box, rgb=recovered.rgb, known=known)
            mask = job_masks.get(recovered.index, recovered.index + 1).get(recovered.index)
            stillness.restless[recovered.index] = () if mask is None else _restless(_without(mask, patch), recovered)
            if known.any():
                yield patch


def _restless(hole: FrameMask | None, recovered: Recovered) -> tuple[Box, ...]:
    """Return the boxes of the parts of a hole that have motion beside them."""
    parts = split_parts(hole) if hole is not None else []
    return tuple(part.box for part in parts if (part.bits & ~recovered.still[part.box.slices_in(recovered.box)]).any())


def without_specks(recovered: Recovered, mask: Bits) -> Bits:
    """Remove specks from known pixels (h, w), and fill specks in them: no speck is worth a seam or a window."""
    known = large_parts(recovered.known, SPECK_PX)
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
