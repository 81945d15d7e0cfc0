"""Other libraries: models of transformers in and out, fused checkpoints, ONNX."""
