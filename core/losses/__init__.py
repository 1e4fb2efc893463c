"""Losses of neural style transfer: the style losses, the content loss and the total variation."""
