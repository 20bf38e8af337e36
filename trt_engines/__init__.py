"""ONNX export, engine build, engine cache and runtime: the only importer of tensorrt."""
