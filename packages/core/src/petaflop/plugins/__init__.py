"""Plugins: found through package metadata, imported by name when used, unable to take one another down."""
