"""Records become events or go to quarantine, each exactly once, identifiers pseudonymised."""
