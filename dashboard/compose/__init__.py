"""The form for a new run: choose pictures, masks and settings, and start it."""
