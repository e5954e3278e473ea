"""Ranking and calibration metrics with their confidence intervals."""
