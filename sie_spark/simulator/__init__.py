"""A clickstream whose truth is known; it stands alone."""
