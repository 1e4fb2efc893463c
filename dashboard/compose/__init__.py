"""Compose a new painting: choose pictures, masks and settings, and start it."""
