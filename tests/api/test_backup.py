"""`holdfast backup` beside a running daemon, and `restore` where all but the keys and the documents was lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from examples.demo.fleet import Fleet
from tests.api.fleets import built
from tests.api.test_daemon import daemon, in_sync


def _run(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(fleet.command(*words), capture_output=True, text=True)


def test_after_a_restore_the_fleet_is_known_again_and_nothing_is_deployed(tmp_path: Path) -> None:
    fleet = built(tmp_path, targets=1)
    file = tmp_path / "all.backup"
    with daemon(fleet) as process:
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        done = _run(fleet, "backup", str(file), "--output", "json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"]["job"] == 1
        again = _run(fleet, "backup", str(file))
        assert (again.returncode, "is there already" in again.stderr) == (2, True)
        process.kill()
        process.wait()
        for left in fleet.state.glob("holdfast.db*"):
            left.unlink()
        restored = _run(fleet, "restore", str(file))
        assert restored.returncode == 0, restored.stderr
        assert "not empty" in _run(fleet, "restore", str(file)).stderr
        with daemon(fleet):
            fleet.wait("the restored fleet", lambda: in_sync(fleet, "1.0.0"))
            assert len(fleet.ask("job", "list")["jobs"]) == 1
            shutil.copy(file, file.with_suffix(".copy"))
            assert "STORE_LOCKED" in _run(fleet, "restore", str(file), "--output", "json").stdout
