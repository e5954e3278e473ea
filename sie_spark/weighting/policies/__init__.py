"""One policy a file; each registers itself."""
