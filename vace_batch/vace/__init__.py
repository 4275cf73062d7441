"""VACE itself: load a model, encode VCUs, sample, decode. diffusers and transformers are imported nowhere else."""
