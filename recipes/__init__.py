"""Rebuild the weights that the package ships: the embedded model and the demo's detector. Not in the wheel."""
