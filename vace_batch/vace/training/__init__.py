"""Training as VACE was trained: a small base, frozen, then a context branch; and the weights of the embedded model."""
