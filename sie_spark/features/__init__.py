"""Impressions in, fixed-width arrays out, by one frozen artefact: the encoder."""
