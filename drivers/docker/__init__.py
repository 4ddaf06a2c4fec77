"""Placements as containers of a Docker engine, found by their labels and ids, never by name."""
