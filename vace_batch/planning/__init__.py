"""Decide where the work is: a job's output canvas, and the regions and windows of a clip. Pure functions.

May import the rooms masks, manifest and video (types only).
"""
