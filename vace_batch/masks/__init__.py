"""What to replace in each frame: found by boxes, mask file, YOLO or SAM, then shaped, dilated and protected."""
