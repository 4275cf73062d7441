"""Follow objects from frame to frame: trackers, SAM 2 memory, skipped frames, smoothed masks.

May import segmenters, detectors and what they may; `trackers` imports ultralytics.
"""
