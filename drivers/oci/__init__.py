"""Artifacts by content: OCI image layouts and registries, read with every byte hashed on the way."""
