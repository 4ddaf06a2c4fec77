"""Compose projects: the user's template with every image pinned, brought up by the compose program on a lock file.

What an operator should know:

- The template stands in the target's document, in the words of a compose file. What is not understood is refused by
  file, line and field: `build`, `extends`, variables and tags in images, privileged services, mounts of the host that
  `host_mounts` does not allow. A service is a component of the same name; one that no component names is not started.
- `<root>/<project>/locks/<hash>.yaml` is all that compose is told, and `sha256sum -c` accepts the file beside it.
  Compose is called with that file and this project alone; orphans are removed by our own labels.
- Stickers are files below `root`, one for each service. While compose is at work nobody else acts on the project, also
  when the daemon was killed meanwhile.
- Secrets reach compose as variables of its own environment and the services as theirs: `docker inspect` shows them.
  Those that are declared as files (`secrets`) it does not show: they lie in memory on the engine's host, below
  `connection.secrets_directory` (/run/holdfast), one directory for each service and configuration, mounted read-only.
- Over SSH (`connection.via: ssh`) the files stand and compose runs on the engine's host, which needs Python 3.8; our
  side is brought there as one file, and the engine is spoken to through a tunnel. When the connection is lost compose
  goes on, keeps the project, and writes down how it ended; whoever comes back waits for that and goes on from there.
- Both `docker compose` and `docker-compose` 1.29 do; the proof of health is ours with either.
"""
