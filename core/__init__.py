"""The engine: settings, images, weights, losses, optimizers, runs."""

import os

# TensorFlow reads these when it is first imported. It logs only errors, and takes only the GPU memory that it needs,
# because ONNX Runtime uses the same GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
