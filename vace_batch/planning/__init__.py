"""Decide where the work is: a job's output canvas, and the regions and windows of a clip. Pure functions.

May import masks (types), manifest, video (types) and what lies below them.
"""
