"""Take one clip step by step: prepare, build, generate, stitch, measure, settle, keep.

Knows no Ray. May import every room of the way of the data.
"""
