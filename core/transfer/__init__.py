"""The style transfer: inputs, style targets, objective, optimizers, and the loop that optimizes the image."""
