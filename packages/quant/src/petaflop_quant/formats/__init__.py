"""What bytes mean: each module has the formats of one structure."""
