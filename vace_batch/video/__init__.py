"""Read exact frames and write exact files: the only room that imports PyAV, decord and PySceneDetect.

May import options, geometry, errors.
"""
