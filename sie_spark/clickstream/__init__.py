"""Raw events in, one labelled impression a row out."""
