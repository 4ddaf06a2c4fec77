"""HTTP on the daemon's Unix socket: every command of `api.commands` is one route."""
