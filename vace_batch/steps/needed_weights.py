"""Check, without a video and without loading a model, that a job's weights are named, allowed and there."""

from __future__ import annotations

from vace_batch.manifest.choices import CONTROL_NETWORKS
from vace_batch.manifest.job import Job, split_controls
from vace_batch.masks.weights import find_weights, missing_weights
from vace_batch.options import Options

_OWN = "@"
"""Begins the names of targets that need no weights of the user: @text, @overlay."""


def check_weights(job: Job, options: Options) -> None:
    """Refuse a job that needs weights which neither its row nor the run names, or which it may not name.

    A segmenter for boxes and targets is a wish: without its weights the boxes are used, and a note says so.

    Raises:
        ClipError: `no_detector`, `no_segmenter`, `no_control_weights`, `weights_not_found`, `weights_not_allowed`.
    """
    asked = (*job.targets, *job.pick.exclude, *job.protect.targets)
    if any(not name.startswith(_OWN) for name in asked):
        _check("detector", "targets", job.detector, options.detector, options)
    if job.points:
        _check("segmenter", "points", job.segmenter, options.segmenter, options)
    defaults = {"depth": options.depth, "pose": options.pose}
    for control in split_controls(job.control or ""):
        kind = CONTROL_NETWORKS.get(control)
        if kind is not None:
            _check(kind, f"control {control}", job.control_weights, defaults[kind], options)


def _check(kind: str, needed_by: str, name: str | None, configured: str | None, options: Options) -> None:
    chosen = name or configured
    if chosen is None:
        raise missing_weights(kind, needed_by)
    find_weights(chosen, configured=configured, folders=options.weights_folders, pickles=options.pickles)
