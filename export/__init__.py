"""Exports: the ONNX model, charts, reports and time lapses."""
