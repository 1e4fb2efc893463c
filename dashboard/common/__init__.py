"""Shared parts of the pages: charts, the picture viewer, texts and the state in the URL."""
