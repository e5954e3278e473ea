"""The catalogue of scorers and the Arrow workers that run them."""
