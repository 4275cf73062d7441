"""Outline objects: SAM from boxes and points, SAM 2 with its memory.

May import detectors and what they may; `sam` imports ultralytics.
"""
