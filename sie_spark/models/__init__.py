"""Torch modules only; no Spark."""
