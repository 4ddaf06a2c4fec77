"""The SSH transport: one kept connection to each host, shared by whatever runs there.

What an operator should know:

- Every host is known beforehand, by `known_hosts` (a file, or lines) or by `host_ca`; nothing turns the check off. A
  key other than the one expected is refused under its own error, which names both fingerprints.
- Nothing of `~/.ssh` is read, no agent is asked and none is forwarded unless the connection says so.
- One connection serves all targets of a host, and all looks and actions; it is closed when nobody has used it for
  `idle`, and made again when it was lost. sshd's `MaxSessions` may be as low as three; forwarding of Unix sockets
  (`AllowStreamLocalForwarding`) is needed for Docker, forwarding of TCP (`AllowTcpForwarding`) for health that is asked
  over a port, both of which OpenSSH allows unless told otherwise.
- The command that sshd is given is one fixed line. Which Python, which program and every value come on its standard
  input. What runs programs or writes files on a host needs Python 3.8 there; Docker needs none.
"""
