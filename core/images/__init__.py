"""Images: read, write, convert, resize, mask."""
