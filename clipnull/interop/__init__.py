"""Exchange with other libraries: transformers models, fused checkpoints, ONNX."""
