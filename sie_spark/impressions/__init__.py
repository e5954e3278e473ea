"""Events become labelled impressions, one shown item a row, with what was known before it."""
