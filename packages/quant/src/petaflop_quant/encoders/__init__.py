"""How bytes are chosen: each module has encoders that work alike."""
