"""The feature network: VGG19, its layers, its weights, and its ONNX export."""
