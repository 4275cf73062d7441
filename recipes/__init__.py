"""How the weights that the package ships were made: the embedded model and the demo's detector. Not in the wheel."""
