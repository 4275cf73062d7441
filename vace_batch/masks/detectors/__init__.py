"""Find objects in one frame: YOLO by torch or ONNX, open vocabulary, text, a station's overlay.

May import the mask store, weights and refine; `yolo` and `onnx_export` import ultralytics.
"""
