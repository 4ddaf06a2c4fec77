"""Telling people elsewhere: what drifts, fails or is rolled back, and what nobody has seen for too long, once each."""
