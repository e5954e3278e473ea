"""Kept rows with weights for learners outside: Parquet and libsvm, and the evidence which rows are safe for them."""
