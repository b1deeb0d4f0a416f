"""Plugins: found through package metadata, imported by name when used, and never able to take one another down."""
