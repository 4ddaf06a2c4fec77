"""Real daemons, real workloads, and what is done to them."""
