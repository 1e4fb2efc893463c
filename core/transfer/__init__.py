"""The style transfer itself: inputs, style targets, objective, optimizers, and the loop that paints."""
