"""Measurements: each states its work, and prints medians."""
