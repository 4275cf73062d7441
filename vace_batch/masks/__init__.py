"""Make the masks of a clip: detectors find, segmenters outline, tracking follows, `refine` shapes, `store` keeps.

May import manifest, video, storage and what lies below them.
"""
