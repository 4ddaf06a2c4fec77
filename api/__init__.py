"""The doors: command line, HTTP, pages and people, and the wiring that builds everything else."""
