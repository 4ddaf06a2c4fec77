"""The demo is run as `make demo` runs it, and each scene must have happened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCENES = (
    r"nine targets in sync after",
    r"staging runs 1\.1\.0 after",
    r"detected as stopped",
    r"sticker called forged: the signature does not fit the content",
    r"proven again and labelled anew; nothing was restarted",
    r"called lying: the sticker says shop@1\.1\.0",
    r"stopped after its first wave and rolled back",
    r"staging-4: shop 1\.1\.0 on staging-4",
    r"refused +not healthy within",
)


def test_the_demo_shows_every_scene_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.demo", "--once", "--home", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    for scene in SCENES:
        assert re.search(scene, done.stdout), scene
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert left.stdout == ""
