"""Pixels under a mask that other frames of the shot show: recovered, not generated."""

from vace_batch.background.camera import Segment, track_camera
from vace_batch.background.recover import BackgroundSettings, Recovered, recover

__all__ = ["BackgroundSettings", "Recovered", "Segment", "recover", "track_camera"]
