"""Detect objects in one frame: YOLO by torch or ONNX, open vocabularies, burned-in text, static overlays.

May import the mask store, weights and refine; `yolo`, `onnx_export` and `ultralytics_private` import ultralytics.
"""
