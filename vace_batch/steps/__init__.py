"""Take one clip step by step: prepare, build, generate, stitch, measure, select_best, keep. Knows no Ray.

May import the rooms ledger, quality, stitch, vace, vcu, background, planning, masks, manifest, video and storage.
"""
