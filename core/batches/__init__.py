"""Batches: many runs requested at once."""
