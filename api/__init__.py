"""The doors: command line, command socket, and the wiring that builds everything else."""
