"""Hands and eyes: they look at targets and change them, one idempotent action at a time."""
