"""Devices: the contract of a backend, memory, the registry, and the reference device that defines the ops."""
