"""What leaves the program: the ONNX model with its proof, charts, reports and time lapses."""
