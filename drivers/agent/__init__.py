"""Targets that nothing can reach: an agent on the host dials out, and carries out what is authorised for it."""
