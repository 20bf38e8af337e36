"""The networks of an edit as graphs of fixed operators: export to ONNX, and what runs such graphs."""
