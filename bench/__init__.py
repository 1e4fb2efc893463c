"""Measurements and comparisons with other implementations."""
