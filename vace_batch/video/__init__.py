"""The only place that reads or writes video: PyAV for exact frames, decord for thumbnails, PySceneDetect for cuts."""
