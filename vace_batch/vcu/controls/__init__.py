"""Draw control videos: `draw` by arithmetic, `networks` by ultralytics weights.

`models` chooses the weights of a job, `videos` makes the control video of a window.
"""
