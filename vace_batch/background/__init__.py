"""Pixels under a mask that other frames of the shot show: recovered, not generated."""

from vace_batch.background.camera import Segment, track_camera
from vace_batch.background.recover import BackgroundSettings, Recovered, recover
from vace_batch.background.shadow import grow_into_shadows

__all__ = ["BackgroundSettings", "Recovered", "Segment", "grow_into_shadows", "recover", "track_camera"]
