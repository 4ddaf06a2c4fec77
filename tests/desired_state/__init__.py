"""The documents, from bytes to desired states."""
