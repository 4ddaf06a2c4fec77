"""The audit log: shown, verified, exported."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from api import client
from api.cli import show
from api.problem import FAILED, OK, Problem
from api.settings import Settings


def index(settings: Settings, given: Namespace) -> int:
    asked = {"environment": given.environment, "before": given.before, "limit": given.limit}
    answer = client.ask(settings, "audit", **asked)
    if given.output == "json":
        show.as_json(answer)
        return OK
    show.columns(("when", "chain", "entry", "actor", "action", "subject", "detail"), map(_cells, answer["entries"]))
    if answer["next"]:
        print(f"more: --before '{answer['next']}'")
    return OK


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    detail = ", ".join(f"{key} {value}" for key, value in entry["detail"].items() if value not in (None, "", []))
    return (
        show.moment(entry["at"]),
        show.clean(entry["chain"]),
        str(entry["seq"]),
        show.brief(entry["actor"], 40),
        show.clean(entry["action"]),
        show.brief(entry["subject"], 40),
        show.brief(detail),
    )


def verify(settings: Settings, given: Namespace) -> int:
    checkpoints = _checkpoints(Path(given.against)) if given.against else []
    answer = client.ask(settings, "audit_verify", environment=given.environment, checkpoints=checkpoints)
    if given.output == "json":
        show.as_json(answer)
    else:
        _print(answer)
    return OK if answer["ok"] else FAILED


def _print(answer: dict[str, Any]) -> None:
    for each in answer["chains"]:
        print(f"{show.clean(each['chain'])}: {each['entries']} entries, each as it was written")
    for each in answer["faults"]:
        print(show.paint(f"{show.clean(each['chain'])}: entry {each['seq']}: {show.clean(each['says'])}", "31"))
    if answer["checkpoints"]:
        print(f"held against {answer['checkpoints']} signed checkpoints")


def export(settings: Settings, given: Namespace) -> int:
    asked = {"environment": given.environment, "brief": given.checkpoints}
    for line in client.events(settings, "audit_export", asked):
        if "event" in line:
            print(json.dumps(line["event"], ensure_ascii=False))
    return OK


def _checkpoints(file: Path) -> list[str]:
    """The checkpoints of an export; entries in it are passed by."""
    found = []
    try:
        with file.open() as lines:
            for line in lines:
                each = json.loads(line)
                if "checkpoint" in each:
                    found.append(str(each["checkpoint"]))
    except OSError as error:
        raise Problem("NO_FILE", f"{file}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise Problem("BAD_CHECKPOINT", f"{file} is not what `holdfast audit export` wrote") from None
    if not found:
        raise Problem("BAD_CHECKPOINT", f"{file} holds no checkpoint")
    return found
