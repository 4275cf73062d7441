"""Train the embedded model's VAE, text encoder, base and context branch, and package them."""
