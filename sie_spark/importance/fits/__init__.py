"""One fitted artefact a file."""
