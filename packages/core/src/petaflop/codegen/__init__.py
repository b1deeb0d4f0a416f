"""Kernel and Target to Plan (planner), Kernel and Plan to Loops (lower)."""
