"""Draw the control videos of one window from whole source frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from vace_batch.manifest.choices import CONTROL_NETWORKS
from vace_batch.masks.keyframes import box_tracks
from vace_batch.masks.refine import split_parts
from vace_batch.masks.store import FrameMask
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan, PlannedWindow
from vace_batch.vcu.controls.videos import LAYOUTS, SIMPLE, Boxes, Source, control_video
from vace_batch.vcu.unit import Pixels
from vace_batch.video.reader import read_frames


def control_videos(
    work: ClipWork, plan: ClipPlan, planned: PlannedWindow, path: str, selection: Mapping[int, FrameMask]
) -> dict[str, Pixels]:
    """Draw the job's controls that need more than the window's own crop; by name, each (T, H, W, 3) at model size.

    `path` is the local source video, `selection` the masks that layout_track draws. Where the window holds its last
    frame, its controls hold theirs.

    Raises:
        ClipError: weights or boxes cannot be used, and the errors of reading.
    """
    window = planned.window
    region = plan.region_of(planned)
    scales = plan.scales[region.shot] if plan.scales else {}
    videos: dict[str, Pixels] = {}
    for name in dict.fromkeys(name for name in work.job.controls if name not in SIMPLE):
        with_lead = name == "flow" and planned.lead_pts is not None
        source = Source(
            frames=_window_frames(path, planned, with_lead=with_lead),
            size=plan.size,
            box=window.box,
            model_size=region.size,
            lead=with_lead,
            layout=_layout(work, plan, name, window.start, selection) if name in LAYOUTS else None,
        )
        network = work.control_models.load(name, work.job.control_weights) if name in CONTROL_NETWORKS else None
        video = control_video(name, source, scale=scales.get(name), network=network)
        held = window.num_frames - len(video)
        videos[name] = np.concatenate([video, video[-1:].repeat(held, axis=0)])
    return videos


def _window_frames(path: str, planned: PlannedWindow, *, with_lead: bool) -> Iterator[Pixels]:
    """Read the source frames of a window, (H, W, 3); `with_lead` from one frame before the window on."""
    window = planned.window
    start = window.start - 1 if with_lead else window.start
    start_pts = planned.lead_pts if with_lead else planned.start_pts
    return (frame.rgb() for frame in read_frames(path, start, window.stop, start_pts=start_pts))


def _layout(
    work: ClipWork, plan: ClipPlan, name: str, start: int, selection: Mapping[int, FrameMask]
) -> Callable[[int], Boxes]:
    """The boxes that a layout shows on a window's n-th frame, each with its object's number.

    layout_bbox shows the tracks of the job's `boxes`; layout_track shows all parts of a frame's mask as one object.
    """
    if name == "layout_bbox":
        tracks = box_tracks(work.job.boxes, plan.size, plan.num_frames)
        return lambda n: [(track.object_id, box) for track in tracks if (box := track.at(start + n, plan.size))]

    def boxes(n: int) -> Boxes:
        mask = selection.get(start + n)
        return [(0, part.box) for part in split_parts(mask)] if mask is not None else []

    return boxes
