"""Ranking, calibration and their intervals from counts and arrays; numpy only, so that every stage may judge."""
