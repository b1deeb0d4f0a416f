"""petaflop's CPU backend: kernels as LLVM IR, compiled for the host by llvmlite."""

__version__ = "0.1.0"
