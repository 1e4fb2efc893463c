"""The losses of neural style transfer, and the choice of style losses that the settings offer."""
