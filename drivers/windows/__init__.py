"""The windows driver."""
