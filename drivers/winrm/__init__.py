"""The WinRM transport: a Windows host over HTTPS, one kept PowerShell to each that is looked at.

What an operator should know:

- It needs the extra `winrm` (`pip install holdfast[winrm]`) beside the daemon, and for `auth: kerberos` the extra
  `kerberos`, which is compiled where it is installed (a C compiler and Kerberos' headers: `libkrb5-dev`); without them
  the connection is refused, by name.
- With Kerberos the daemon's `krb5.conf` says where the realm is (`KRB5_CONFIG` names another). Without `password` the
  ticket of whoever runs the daemon is shown, from its cache or by its key file (`KRB5_CLIENT_KTNAME`), which needs
  nobody to sign in. The ticket is for `host/<host>`, with `host` as the document writes it.
- Only HTTPS is spoken, and the certificate is always checked, against `ca` or the authorities of the daemon's machine.
  Nothing turns that off, no proxy is asked, no redirect followed. Basic and CredSSP are not spoken: both hand the
  password over. NTLM and Kerberos are bound to the TLS channel; `message_encryption: true` seals each message too.
- On the host: a listener (`winrm quickconfig -transport:https`), an account that is an administrator there, and Windows
  PowerShell 5.1. Each action under way keeps a second shell beside the one that looks; `MaxShellsPerUser` is 30 unless
  told otherwise. A shell that is not used for `idle` is closed.
- The host is given one fixed command line. The helper, one script that is known by its digest, and every value come on
  its standard input; nothing of ours is there before, and nothing is left by looking.
"""
