"""Windows services, against a server of the helper's protocol."""
