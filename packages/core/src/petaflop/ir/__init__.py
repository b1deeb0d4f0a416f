"""The data that stages hand on: kernels (in which fused pieces), plans and loops (how), targets (for what
device)."""
