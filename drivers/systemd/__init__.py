"""The systemd driver: a plain Linux host whose workloads are services of systemd, with their logs in its journal."""
