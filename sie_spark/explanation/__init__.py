"""One row in words: its scores and their ranks, what carries its gradient, and the training rows nearest to it."""
