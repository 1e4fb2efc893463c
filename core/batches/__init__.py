"""Batches: many runs that are asked for at once."""
