"""The WinRM transport, against a server of WS-Management on loopback."""
