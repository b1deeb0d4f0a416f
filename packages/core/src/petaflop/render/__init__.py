"""Renderers: Loops as text. No compiler or driver is imported here."""
