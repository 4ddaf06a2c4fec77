"""The process driver: a plain Linux host with nothing installed but Python, workloads under a supervisor of one file.

What an operator should know:

- A target is one directory of a host, `connection.root`, and takes no other's. Everything of a placement lies below it,
  the layout is told in `host.py`, and `python host.py ctl DIRECTORY status|start|stop|restart` is for hands.
- A release is unpacked beside its predecessor and runs in its own tree, which is compared with what was unpacked at
  every look. A workload may add files beside its own, but they go with the release: what has to stay belongs elsewhere.
- The workload binds its ports itself. A declared host port must equal the container port; then the predecessor ends
  before the successor starts, and the time without a listener is measured and reported. A port without a host port is
  any free one, told in HOLDFAST_PORT_<port>; then both run until the successor is proven.
- The environment is what is declared, PATH, and HOLDFAST_*; nothing is inherited. Memory is limited for each process by
  itself, processors in whole cores, and what cannot be enforced (volumes, networks, parts of a core, a runtime's own
  health check, another user without being root) is refused before anything is touched.
- Secrets live in the memory of supervisor and workload only; those that are declared as files (`secrets`) also on a
  file system in memory, in the directory that CREDENTIALS_DIRECTORY names. After a reboot, or when the supervisor was
  killed, the placement reads as stopped until an action brings them again: nothing starts at boot but the reconciler.
  `always` is therefore the same as `unless-stopped`.
- A host that is reached over SSH (`via: ssh`) needs Python 3.8 and nothing else. What was unpacked here is sent there,
  and this file's twin is kept below the root, known by its digest. Health over a port is asked from the host itself. An
  action whose connection is lost goes on when it is back; meanwhile the supervisors go on, unless the host ends all
  that a login has left behind (`KillUserProcesses` of systemd-logind: then `loginctl enable-linger`).
- Supervisors outlive the daemon that started them, unless whoever stops it ends its whole process tree: a systemd unit
  of the daemon needs `KillMode=process`.
"""
