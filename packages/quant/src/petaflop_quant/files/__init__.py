"""Files of quantized tensors: GGUF, and safetensors with the conventions that others use."""
