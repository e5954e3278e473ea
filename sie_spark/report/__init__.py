"""Figures and the page a person reads."""
