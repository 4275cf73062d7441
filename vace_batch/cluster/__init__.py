"""Ray actors and the dispatcher that feeds them; knows units of work and nothing of video.

`units`, `dispatch`, `board` and `loop` do not import Ray and are tested on a simulated cluster; `actors` and `runtime`
are the thin shell that does.
"""
