"""Read exact frames and write exact files. Only this room imports PyAV, decord and PySceneDetect.

May import no other room.
"""
