"""One scorer a file; each registers itself."""
