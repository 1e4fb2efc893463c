"""What leaves the house: the ONNX model, with the proof that it computes the same."""
