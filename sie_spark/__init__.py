"""Which training samples matter: scores, unbiased subsets and weighted retraining for click models."""

__version__ = "0.9.0"
