"""Measure a finished clip, judge it, and name the next remedy; from pixels alone.

May import the rooms background, masks, manifest and video.
"""
