"""Make six short clips on the spot, and their manifest.

May import the rooms masks, manifest and video.
"""
