"""Recover the pixels under a mask from other frames of the same shot.

May import the rooms planning, masks, manifest and video.
"""
