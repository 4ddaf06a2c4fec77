"""The HTTP doors, in process and over real sockets."""
