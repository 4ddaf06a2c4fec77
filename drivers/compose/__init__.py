"""Compose projects: the user's template with every image pinned, brought up by the compose program on a lock file."""
