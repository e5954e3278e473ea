"""Arms, data sets and seeds, compared."""
