"""Put generated frames back into the source: cross-fade, colour, grain, feather.

May import the rooms background, planning, masks and video.
"""
