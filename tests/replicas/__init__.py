"""Several replicas on one real PostgreSQL: who holds what, who takes over, and what is lost on the way."""
