"""Show a run or a batch, while it is painted and afterwards."""
