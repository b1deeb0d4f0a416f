"""The first noun: *what* to compute, as an immutable graph of a dozen primitive operations."""
