"""The style transfer itself: settings, pictures, weights, losses, optimizers, runs."""

import os

# Before TensorFlow is first imported anywhere: its log stays quiet, and it takes of a GPU's memory only what it needs,
# since ONNX Runtime lives on the same card.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
