"""Build the Video Condition Unit (VCU) of one window: tasks, references and control videos.

Only `controls` imports torch. May import background (patches), planning, masks, video and what lies below them.
"""
