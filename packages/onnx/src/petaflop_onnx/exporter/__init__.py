"""Our graph to ONNX: `petaflop_onnx.export` and `petaflop export`."""
