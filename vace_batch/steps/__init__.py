"""Take one clip step by step: prepare, build, generate, stitch, measure, select_best, keep.

Knows no Ray. May import every room of the way of the data.
"""
