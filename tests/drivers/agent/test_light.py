"""The agent is small and starts soon, and carries no part of the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[3]
HEAVY = {
    *("sqlalchemy", "psycopg", "alembic", "fastapi", "starlette", "uvicorn", "jinja2", "api", "reconciler", "boto3"),
    *("asyncssh", "structlog", "rich", "prometheus_client", "opentelemetry"),
}
WITH_DOCKER = """
import json, sys, tempfile, time
from pathlib import Path
import anyio
from drivers.agent import host
host.lighten()
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from desired_state.model import Target
from drivers.agent.channels import over_websocket
from drivers.agent import protocol
from drivers.agent.duty.agent import Agent, Parts
from drivers.agent.channels.channel import connected
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.journal import Journal
from drivers.agent.duty.own import Own
from drivers.agent.duty.settings import Settings
from drivers.contract import Look

async def main(folder):
    own = Own(agent="a", installation="i", signing=Ed25519PrivateKey.generate(),
              sealing=X25519PrivateKey.generate(), signers=())
    parts = Parts(own=own, settings=Settings(kinds=["docker"]), journal=Journal(Path(folder)), clock=Clock(),
                  generation=lambda: 1, version="1")
    agent = Agent(parts)
    protocol.text(agent.hello())
    started = time.process_time()
    target = Target(id="default/t", environment="default/e", driver="docker",
                    connection={"engine": f"unix://{folder}/none.sock"})
    await agent._locals.observe([Look(target=target)])
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules if sys.modules[name]}),
                      int(status["VmRSS"].split()[0]), started]))

with tempfile.TemporaryDirectory() as folder:
    anyio.run(main, folder)
"""


def test_the_agent_with_docker_loads_nothing_of_the_daemon_and_stays_small(tmp_path: Path) -> None:
    """Run with -s, the numbers are shown. How long it takes to start is not judged: it says more of a busy machine."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    for _ in range(2):  # a second time, with its modules compiled
        argv = [sys.executable, "-c", WITH_DOCKER]
        run = subprocess.run(argv, capture_output=True, cwd=TREE, env=environment, check=True, timeout=60)
    modules, resident, started = json.loads(run.stdout)
    print(f"started after {started:.2f} s of processor time; {resident / 1024:.1f} MiB resident with Docker")
    assert not HEAVY & set(modules)
    assert resident < 60 * 1024


def test_its_door_tells_its_version_without_loading_drivers() -> None:
    code = "import sys; from drivers.agent import host; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=TREE, check=True, timeout=60)
    loaded = run.stdout.decode().split()
    assert not {name for name in loaded if name.startswith(("drivers.docker", "drivers.process", "docker", "anyio"))}
