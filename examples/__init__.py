"""A numbered series of small, runnable examples, and the demo."""
