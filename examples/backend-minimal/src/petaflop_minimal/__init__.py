"""A petaflop backend that interprets kernels with NumPy."""
