"""Comparison reports: one HTML page, or a ZIP that also holds the originals and the numbers."""
