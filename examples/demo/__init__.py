"""The demo: a fleet on this machine, held to its declared release, broken by hand and healed before your eyes."""
