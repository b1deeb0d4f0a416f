"""From graph to kernels: which nodes get memory, which blocks share a launch, which buffers share memory."""
