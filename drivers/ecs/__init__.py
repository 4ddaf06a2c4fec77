"""The ECS driver: one service of a cluster is one target, each of its containers a placement."""
