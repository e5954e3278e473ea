"""Impressions in, fixed-width rows out, by a frozen encoder."""
