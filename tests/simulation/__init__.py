"""The deterministic simulation: the real loop, store and execution on a fleet in memory, in virtual time, under faults
that a seed draws; invariants are checked after every effect and every write, and convergence after healing."""
