"""Recover the pixels under a mask from other frames of the same shot.

May import planning, masks, video and what lies below them.
"""
