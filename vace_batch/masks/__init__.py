"""Make the masks of a clip: detectors find, segmenters outline, tracking follows, `refine` shapes, `store` stores.

May import the rooms manifest, video and storage.
"""
