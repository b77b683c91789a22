"""A trained model as one ONNX file, in 32 or 8 bits."""
