"""Following a job: one line per thing that happens, a bar below them, and the job's end as the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from api.cli import show
from api.cli.bar import Bar
from api.problem import FAILED, OK

COLOURS: Final = {
    "succeeded": "32",
    "completed": "32",
    "failed": "31",
    "rolled_back": "33",
    "lost": "35",
    "retrying": "33",
}


def follow(stream: Iterable[dict[str, Any]], output: str) -> int:
    """Show the events as they come (`json`: one object a line), answer 0 when nothing was to do or the job did it."""
    result: dict[str, Any] = {}
    bar = Bar()
    try:
        for event in stream:
            result = event.get("result", result)
            if output == "json":
                import json

                print(json.dumps(event, default=str), flush=True)
            elif "event" in event:
                _show(event["event"], bar)
    finally:
        bar.end()
    if output != "json":
        print(show.clean(result.get("message", "")))
    return OK if result.get("ok", True) else FAILED


def _show(event: dict[str, Any], bar: Bar) -> None:
    match event["kind"]:
        case "job":
            line = f"{show.clean(event['job'])}  {_coloured(event['state'])}  {show.clean(event.get('detail', ''))}"
            bar.line(line.rstrip())
        case "task":
            where = f"{show.clean(event['target'])}  {show.clean(event['component'])}"
            done = f"[{event['done']}/{event['total']}]"
            bar.line(f"  {done} {where}  {_coloured(event['state'])}  {show.clean(event['detail'])}".rstrip())
            bar.move(event["done"], event["total"], f"{show.clean(event['target'])} {event['state']}")
        case "lost":
            said = f"connection lost ({show.clean(event['detail'])}); taking {show.clean(event['job'])} up again"
            bar.line(show.paint(said, "33"))
        case "progress":
            bar.line(show.paint(f"      {show.clean(event['step'])}: {show.clean(event['message'])}", "2"))


def _coloured(state: str) -> str:
    return show.paint(state, COLOURS.get(state, "36"))
