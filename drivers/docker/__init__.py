"""Placements as containers of a Docker engine, found by their labels and ids, never by name.

What an operator should know:

- Whatever is made here carries the label `holdfast.installation`, and only that is ever changed; other containers, also
  those of the same name, are left alone. `docker ps -a --filter label=holdfast.installation` shows all of it.
- Beside each placement stands a container that is never started: it holds the signed sticker in its labels, and pins
  the image. Removing it by hand means that the placement is proven and labelled anew; nothing is restarted.
- Images are pulled by digest, and what the engine has pulled must be known to it by exactly that digest. Predecessors
  are kept, stopped, as many as `keep` says, so that going back needs no registry.
- A component without a host port, and without a volume it writes to, is replaced beside the old one, and requests by
  its name on the network are not lost. With one, the old container ends before the new one starts.
- Environment variables, secrets among them, can be read with `docker inspect` by whoever may ask the engine.
- Secrets that are declared as files (`secrets`) are not: they lie in memory on the engine's host, below
  `connection.secrets_directory` (/run/holdfast), mounted read-only; `docker inspect` shows only where. Who may ask the
  engine gets to them by other ways (`docker exec`, `docker cp`), as to anything on its host. They outlive restarts of
  the container and of the engine, not a boot: the container then stays down until the reconciler, which sees it
  stopped, puts them back. Those of kept predecessors stay until these are collected. With `unix://` engines of this
  host a directory on a disk is refused; behind TLS and SSH `holdfast doctor` says what to look at.
- An engine that is killed and comes back first stops the containers that live on, unless its daemon.json says
  `live-restore`: one that does not heed its stop signal keeps the engine for as long as its `stop_grace`, and one with
  `restart: unless-stopped` then stays down until a deploy that was under way, or the reconciler, starts it. With
  `live-restore` they run on, and with `restart: always` they are started at once.
- Killed in the middle of a deploy, alone or with what is beside it, it leaves the old or the new version, and what was
  asked for is carried on when it is sent again. Killed while it was starting a container with a port of the host, it
  may keep that port for nobody (moby/libnetwork#1790): the answer says so, and one more restart of it helps.
- The engine's API has no compare-and-swap: a reconciler that was paused between two calls may still finish the second.
"""
