"""The process driver: a plain host with nothing installed but Python, its workloads under a supervisor of one file."""
