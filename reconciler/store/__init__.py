"""The memory: one database that decides what may be written, and functions on a connection that read and write it."""
