"""The suite that examines importers."""
