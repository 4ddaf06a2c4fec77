"""Agents as the daemon has them: who may speak, the door they come in by, and who of them is there."""
