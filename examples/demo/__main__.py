"""`make demo`: builds a fleet of three environments on this machine, shows Holdfast holding it, breaks it by hand, and
leaves it running with the commands to try, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.demo.fleet import ENVIRONMENTS, Fleet

MARKS = {"in sync": "✓", "in transit": "→", "unknown": "?"}


def main() -> int:
    arguments = _arguments()
    fleet = _fleet(arguments)
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupted)
    say(
        "Build",
        "pack three releases of a small shop as OCI artifacts, declare three environments in YAML, make a signing key",
    )
    fleet.build()
    try:
        with fleet.held():
            _tell_dashboard(fleet)
            for scene in SCENES[: 1 if arguments.first_only else None]:
                scene(fleet)
            if not arguments.once:
                _leave_running(fleet)
    except KeyboardInterrupt:
        print("\nThe daemon is drained and the fleet is ended.")
    return 0


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--docker", action="store_true", help="containers on a Docker engine instead of processes")
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="where the demo lives (default .demo)")
    parser.add_argument("--once", action="store_true", help="end after the last scene")
    parser.add_argument("--first-only", action="store_true", help="only the first scene")
    return parser.parse_args()


def _fleet(arguments: argparse.Namespace) -> Fleet:
    if arguments.docker:
        from examples.demo.containers import ContainerFleet

        return ContainerFleet(arguments.home.absolute())
    return Fleet(arguments.home.absolute())


# -- the scenes -------------------------------------------------------------------------------------------------------


def first_deployment(fleet: Fleet) -> None:
    say("1. First deployment", "the daemon starts; nothing runs yet anywhere")
    took = watch(fleet, lambda seen: len(seen) == sum(ENVIRONMENTS.values()) and all_in_sync(seen))
    print(f"   nine targets in sync after {took:.1f} s; each serves HTTP:")
    for target in ("development-1", "staging-1", "production-1"):
        print(f"   {target}: {fleet.serves(target)}")


def next_release_in_waves(fleet: Fleet) -> None:
    say("2. Edit the YAML", "staging moves to shop@1.1.0, two targets at a time")
    fleet.declare("staging", "1.1.0")
    took = watch(
        fleet,
        lambda seen: (
            all(fleet.serves(name).startswith("shop 1.1.0") for name in seen if "staging" in name) and all_in_sync(seen)
        ),
    )
    print(f"   staging runs 1.1.0 after {took:.1f} s:")
    show(fleet.holdfast("job", "list", "staging"))


def killed_by_hand(fleet: Fleet) -> None:
    say("3. Kill what runs by hand", fleet.KILLED)
    before = fleet.broken(fleet.kill, "staging-2", "stopped", "missing")
    healed(fleet, "staging-2", before)


def sticker_edited_by_hand(fleet: Fleet) -> None:
    say("4. Edit a sticker by hand", "production-1's sticker now claims another release; its signature no longer fits")
    seen = fleet.broken(fleet.forge, "production-1", "unlabelled")
    print(f"   sticker called {seen['trust']}: {seen['reason']}")
    healed(fleet, "production-1", seen)
    print("   proven again and labelled anew; nothing was restarted")


def swapped_by_hand(fleet: Fleet) -> None:
    say("5. Swap what runs by hand", fleet.SWAPPED)
    seen = fleet.broken(fleet.swap, "staging-3", "lying")
    print(f"   called {seen['verdict']}: {seen['reason']}")
    healed(fleet, "staging-3", seen)


def bad_release(fleet: Fleet) -> None:
    say("6. A bad release", "staging is told to run shop@1.2.0-broken, whose health check answers 500")
    fleet.declare("staging", "1.2.0-broken")
    took = fleet.wait("the rollback", lambda: any(job["state"] == "rolled_back" for job in jobs(fleet, "staging")), 120)
    print(f"   stopped after its first wave and rolled back after {took:.1f} s; staging still serves 1.1.0:")
    for number in range(1, ENVIRONMENTS["staging"] + 1):
        print(f"   staging-{number}: {fleet.serves(f'staging-{number}')}")
    show(fleet.holdfast("why", "staging-1"))


SCENES: tuple[Callable[[Fleet], None], ...] = (
    first_deployment,
    next_release_in_waves,
    killed_by_hand,
    sticker_edited_by_hand,
    swapped_by_hand,
    bad_release,
)

# -- what is shown ----------------------------------------------------------------------------------------------------


def say(title: str, what: str) -> None:
    print(f"\n\x1b[1m{title}\x1b[0m: {what}" if sys.stdout.isatty() else f"\n{title}: {what}", flush=True)


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"   {line}", flush=True)


def jobs(fleet: Fleet, environment: str) -> list[dict[str, Any]]:
    return list(fleet.ask("job", "list", environment)["jobs"])


def all_in_sync(seen: dict[str, str]) -> bool:
    return all(verdict == "in sync" for verdict in seen.values())


def watch(fleet: Fleet, ready: Callable[[dict[str, str]], bool], seconds: float = 90) -> float:
    """Show the fleet live, a line each time it changes, until it is ready; answers how long it took."""
    began, last = time.monotonic(), ""
    while True:
        seen = fleet.verdicts()
        line = "  ".join(
            f"{name} {MARKS.get(verdict, '✗')} {verdict}" for name, verdict in seen.items() if verdict != "in sync"
        )
        line = line or f"{len(seen)} placements in sync"
        if line != last:
            print(f"   {time.monotonic() - began:5.1f} s  {line}", flush=True)
            last = line
        if ready(seen):
            return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise SystemExit(f"not ready after {seconds:g} s; see {fleet.home / 'daemon.log'}")
        time.sleep(0.15)


def healed(fleet: Fleet, target: str, before: dict[str, Any]) -> None:
    took = fleet.wait(f"{target} to be healed", lambda: fleet.placement(target)["verdict"] == "in sync")
    seen = f"detected as {before['verdict']} after {before['after']:.1f} s, in sync again {took:.1f} s later"
    print(f"   {seen}: {fleet.serves(target)}")
    show(fleet.holdfast("why", target))


TO_TRY = (
    "hf status",
    "hf drift",
    "hf why staging-1",
    "hf history staging",
    "hf plan production",
    "hf resume staging --lift-refused",
)


def _tell_dashboard(fleet: Fleet) -> None:
    say("Dashboard", fleet.dashboard)
    print(f"   log in as admin, with the password {fleet.password.read_text().strip()}", flush=True)


def _leave_running(fleet: Fleet) -> None:
    _tell_dashboard(fleet)
    say("Now it is yours", "the fleet keeps running; in another terminal:")
    command = Path(sys.executable).with_name("holdfast")
    print(f"   export HOLDFAST_STATE={fleet.state} HOLDFAST_DOCUMENTS={fleet.documents}")
    print(f"   alias hf={command}")
    for line in (*TO_TRY, f"$EDITOR {fleet.documents}/production.yaml", f"tail -f {fleet.home}/daemon.log"):
        print(f"   {line}")
    print("Ctrl-C ends all of it.", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
