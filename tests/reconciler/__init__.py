"""Tests of the mind: its core, its store, its loop."""
