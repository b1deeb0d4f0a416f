"""A petaflop backend that compiles kernels with the C compiler of the system."""
