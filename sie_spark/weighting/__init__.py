"""From scores to inclusion probabilities, offsets, weights and the weighted training set."""
