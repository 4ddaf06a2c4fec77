"""Placements as tasks of a Nomad job: one target is one job, and its template says which task runs which component."""
