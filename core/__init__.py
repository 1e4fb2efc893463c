"""The style transfer itself: settings, pictures, weights, losses, optimizers, runs."""
