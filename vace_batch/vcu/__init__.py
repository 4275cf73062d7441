"""Build the Video Condition Unit (VCU) of one window: tasks, references and control videos. Only `controls` imports
torch.

May import the rooms background, planning, masks, manifest and video.
"""
