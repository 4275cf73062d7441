"""Train as VACE was trained: the base stays frozen, its context branch learns, whole or by LoRA."""
