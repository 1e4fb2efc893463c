"""The style transfer itself: losses, objective, optimizers, and the loop that paints."""
