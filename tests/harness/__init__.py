"""What the tests stand on: real engines, registries and databases, started here and ended by process id."""
