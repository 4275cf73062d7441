"""Cut the holes of a clip into regions and windows, and digest the content that decides each window."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from vace_batch.background.patches import PatchReader
from vace_batch.geometry import Box
from vace_batch.masks.store import MaskReader
from vace_batch.planning.canvas import known_context
from vace_batch.planning.stills import Still, reuse_stills
from vace_batch.planning.windows import Region, Shot, Window, plan_clip
from vace_batch.steps.clip_plan import PlannedWindow
from vace_batch.steps.digest import known_digest
from vace_batch.steps.holes import Holes
from vace_batch.steps.masks import ClipMasks, parts_of
from vace_batch.steps.open_clip import OpenClip
from vace_batch.vcu.controls.videos import MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCut:
    """The regions of a clip, the windows that the model generates, and the still pictures that reuse windows."""

    regions: tuple[Region, ...]
    windows: tuple[PlannedWindow, ...]
    stills: tuple[Still, ...]


def cut_windows(clip: OpenClip, masks: ClipMasks, holes: Holes) -> WindowCut:
    """Plan the windows of a clip's holes, and digest the masks and recovered pixels in each window.

    Raises:
        ClipError: the frames of an extension do not fit into one window.
    """
    limits = clip.work.limits
    holes_reader = MaskReader(holes.file)
    parts = parts_of(holes_reader, clip.num_frames)
    if clip.new:  # the window of new frames also shows known frames round them
        for index in chain(*known_context(clip.job, clip.new, clip.shots, limits)):
            parts[index] = (Box(0, 0, clip.canvas.size.width, clip.canvas.size.height),)
    regions, windows = plan_clip(parts, clip.shots, clip.canvas.size, limits)
    stills, regions, windows = reuse_stills(holes.stillness, parts, regions, windows, limits)
    others = [MaskReader(file) for file in (masks.selection, masks.protected) if file is not None]
    recovered = None if holes.recovered is None else PatchReader(holes.recovered)
    planned = []
    for window in windows:
        digest = known_digest([holes_reader, *others], recovered, clip.new, window)
        planned.append(_planned(clip, window, clip.shots[regions[window.region].shot], digest))
    return WindowCut(regions=regions, windows=tuple(planned), stills=stills)


def _planned(clip: OpenClip, window: Window, shot: Shot, digest: str) -> PlannedWindow:
    pts = clip.scan.pts
    first = min(max(window.start - clip.canvas.before, 0), clip.scan.num_frames - 1)
    shot_decides = clip.job.seed_scope == "shot" or any(name in MEASURED for name in clip.job.controls)
    needs_lead = "flow" in clip.job.controls and window.start > shot.start
    return PlannedWindow(
        window=window,
        start_pts=int(pts[first]),
        known_digest=digest,
        shot=(shot.start, shot.stop) if shot_decides else None,
        lead_pts=int(pts[first - 1]) if needs_lead else None,
    )
