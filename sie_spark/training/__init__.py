"""Delta to torch shards, weighted losses, the distributed fit."""
