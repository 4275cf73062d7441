"""Put generated frames back into the source's: cross-fade, colour, grain, feather.

May import background, planning, masks, video and what lies below them.
"""
