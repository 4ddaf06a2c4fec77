"""Runs under a Python that has pyinfra, and under no other: reads the stickers of all hosts, cold and then warm.

python read_by_pyinfra.py HOSTS.json KNOWN_HOSTS ROUNDS
"""

from gevent import monkey  # type: ignore[import-not-found,import-untyped,unused-ignore]

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from pyinfra.api import Config, Inventory, State  # type: ignore[import-not-found,unused-ignore]  # noqa: E402
from pyinfra.api.connect import connect_all  # type: ignore[import-not-found,unused-ignore]  # noqa: E402

HOSTS = json.loads(Path(sys.argv[1]).read_text())["hosts"]
STICKERS = {host["host"]: f"{host['root']}/bench/web/sticker.json" for host in HOSTS}


def said(host: dict[str, Any]) -> dict[str, Any]:
    return {
        "ssh_hostname": host["host"],
        "ssh_port": host["port"],
        "ssh_user": host["user"],
        "ssh_key": host["key"]["secret"].removeprefix("file:"),
        "ssh_known_hosts_file": sys.argv[2],
        "ssh_strict_host_key_checking": "yes",
        "ssh_allow_agent": False,
        "ssh_look_for_keys": False,
    }


def read(host: Any) -> None:
    done, output = host.run_shell_command(f"cat {STICKERS[host.name]}")
    assert done
    assert "signatures" in output.stdout


def sweep(state: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for greenlet in [state.pool.spawn(read, host) for host in state.activated_hosts]:
        greenlet.get()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    state = State(Inventory(([(host["host"], said(host)) for host in HOSTS], {})), Config(PARALLEL=len(HOSTS)))
    connect_all(state)
    assert len(state.activated_hosts) == len(HOSTS)
    sweep(state)
    print(json.dumps([sweep(state) for _ in range(int(sys.argv[3]))]))


main()
