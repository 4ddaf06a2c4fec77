"""Tests of the compose driver."""
