r"""The windows driver: Windows hosts, reached over WinRM or SSH, whose workloads are services of Windows.

Its PowerShell has not been run on Windows: driver and transport were proven against a server written from the published
protocol, with the helper's part of it in memory. `holdfast drivers` says so; `tests/drivers/windows` runs against a
real host where WINRM_HOST, WINRM_USER and WINRM_PASSWORD name one.

What an operator should know:

- The account must be an administrator of the host; Windows PowerShell 5.1 and Windows Server 2016 or newer are needed.
  Nothing of ours has to be there before: one script, `holdfast.ps1`, is brought by its digest to each shell and kept
  nowhere. `holdfast doctor` looks at all of it before the first change.
- An artifact is an image of files for windows/amd64 or windows/arm64, unpacked below `root` beside the one before. Its
  program must be a service: one that knows nothing of services is ended by Windows after half a minute, and put back.
  The command's first word is its path in the artifact, or an absolute one; batch files are refused.
- Each release has a service of its own, `holdfast-<tag>-<component>[.<slot>]-<release>`, started by Windows at boot
  while it serves, and a second after it has failed, unless `restart: never`. A new one takes over in one order to the
  host: the old one is stopped, the new one started. A kept predecessor is a stopped service: the way back starts it.
- Services run as LocalService unless `user` says NetworkService or LocalSystem; accounts with passwords are not kept.
  Memory, processors, volumes and networks are refused: a Windows service is not confined by them.
- Environment and secrets lie in the service's own key of the registry, which is closed to all but SYSTEM and the
  Administrators; the journal, the sticker and orders below `root` likewise, releases are readable. Nothing else there
  has a secret. A service that is given another command, account or environment by hand is drift that names no value.
- Health over a port is asked by the host itself, at `address`, and counts only if the service's own processes listen
  there; over SSH through the connection. Over WinRM TLS is not asked: declare a command, which runs in the release.
- Containers on Windows are not reached this way but over TLS, by `driver: docker` (docs/kinds/windows.md).

A target::

    driver: windows
    connection:
      via: winrm
      host: win-1.corp.example.com
      user: 'CORP\deployer'
      password: {secret: "env:WINRM_PASSWORD"}
      ca: /etc/holdfast/corp-ca.pem
      root: 'C:\holdfast\shop'

Errors that are likely to be met: EXTRA_MISSING (pip install 'holdfast[winrm]'), NOT_ADMITTED (user, password, or the
host offers only Basic), HOST_NOT_BELIEVED (`ca`, or a host that is named otherwise than its certificate), NO_POWERSHELL
(what the host printed), SILENT (a deadline), CONNECTION_CUT (the shell was lost in the middle; looked at, and gone on).
"""
