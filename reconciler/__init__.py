"""The mind: compares what should be with what is, plans, carries out and remembers."""
