"""Decisions only: pure functions from values to values. `now` is an argument, and nothing here can wait or fail."""
