"""The suite that examines quantization schemes."""
