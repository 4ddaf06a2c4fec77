"""The systemd driver: a plain Linux host whose workloads are services of systemd, with their logs in its journal.

What an operator should know:

- It needs root, systemd 240 or newer and Python 3.8 on the host; all of it is looked at before the first change. What a
  root directory holds, and how releases come there, is as the process driver has it; the root's path may only have
  letters, digits and /._@+,:=- since units name it.
- Over SSH (`connection.via: ssh`) nothing of ours has to be there before: the host's side is brought as one file. The
  login must be root's.
- Each release has a unit of its own, `holdfast-<component>[.<slot>]-<tag>-<release>.service`, the tag being of the
  placement's whole path, so that targets and installations share a host. It is a copy below /etc/systemd/system, since
  a link into a file system that is mounted later would not be there at boot. `systemctl list-units 'holdfast-*'` names
  component and target, `journalctl -u` reads on. A unit of that name without our marks is a conflict and stays.
- A fixed port is handed over in one job of systemd: the new unit conflicts with the old one and comes after it. Without
  a fixed port both run until the new one is proven. What systemd restarts by itself stays the same instance.
- A unit that is edited, given a drop-in, limited otherwise at run time or disabled is drift; `sync` puts it back, by a
  restart unless it was only disabled. Drop-ins for all services are the host's own and no drift. A masked unit is a
  conflict.
- Enforced are memory (`MemoryMax`) and processors (`CPUQuota`, in hundredths of a core) of all processes together, user
  and group, stop grace, and no core dumps. Volumes, networks and a runtime's own health check are refused.
- Beside what is declared the environment holds PATH, HOLDFAST_*, and what systemd adds (INVOCATION_ID, LANG, and HOME
  and USER where a user is declared). systemd drops variables whose names are not letters, digits and _, and values with
  control characters beside tab and newline: both are refused.
- Secrets are in a file of /run, in memory, 0600, and in the environment of the workload: neither `systemctl show` nor
  the unit has them. They do not outlive a boot. What needs none starts at boot by itself, unless its restart policy is
  `never`; what needs one waits, inactive and not failed, until the reconciler brings it.
- Secrets that are declared as files are credentials of systemd (247 or newer): the workload reads
  $CREDENTIALS_DIRECTORY/NAME, in memory, its user's own and read-only, gone when it ends. A `path` is refused.
- A health command runs as the workload's user with the environment of its main process, and outside its limits.
"""
