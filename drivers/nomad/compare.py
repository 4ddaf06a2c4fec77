"""What a job says of a component, compared with the specification that was rendered for it.

Nomad answers a job with every default filled in, so only what was sent is compared; where somebody may add what nobody
sent (an environment, a driver's configuration, meta) nothing may be added. Values that were found are never shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from drivers.nomad.render import OURS, SPECIFICATION, Job, Part, shortened

OPEN: Final = frozenset({"Env", "Config", "Meta"})  # maps to which nothing may be added
ADDED_TO: Final = frozenset({"Constraints", "Affinities"})  # lists to which Nomad adds what others imply
UNCOMPARED: Final = frozenset({"Count", "Stop"})  # how many run is seen by their state

_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_SPANS: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS: Final = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}


def specification(part: Part) -> Mapping[str, Any] | None:
    """The record beside the task, where there is one that can be read."""
    try:
        found = json.loads(part.meta.get(SPECIFICATION, ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def differences(job: Job, part: Part) -> tuple[str, ...]:
    """Sentences saying where the job is not what was rendered for this component; empty when it is."""
    wanted = specification(part)
    if wanted is None:
        return ("nothing is recorded beside the task",)
    beside = {task["Name"]: task for task in part.group.get("Tasks") or ()}
    found = {
        "job": job,
        "group": part.group,
        "task": part.task,
        "beside": {name: beside.get(name) for name in wanted.get("beside") or {}},
    }
    return tuple(sorted(set(_differences(wanted, found, ()))))


def holds(wanted: Any, found: Any) -> bool:
    """Whether what was sent is what Nomad answers, but for what it fills in."""
    return not any(_differences(shortened(wanted), found, ("",)))


def _differences(wanted: Any, found: Any, path: tuple[str, ...]) -> Iterator[str]:
    match wanted:
        case dict():
            yield from _of_maps(wanted, found, path)
        case list():
            yield from _of_lists(wanted, found, path)
        case _ if not _same(wanted, found):
            yield f"{'.'.join(path)}: is not as it was rendered"


def _of_maps(wanted: Mapping[str, Any], found: Any, path: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(found, dict):
        if wanted:
            yield f"{'.'.join(path)}: is gone"
        return
    for name, value in wanted.items():
        if name not in UNCOMPARED:
            yield from _differences(value, found.get(name), (*path, name))
    if path and path[-1] in OPEN:
        for name in found.keys() - wanted.keys():
            if not name.startswith(OURS):
                yield f"{'.'.join((*path, name))}: was added"
    elif path == ("task",):
        for name in OPEN - wanted.keys():
            yield from _of_maps({}, found.get(name) or {}, (*path, name))


def _of_lists(wanted: list[Any], found: Any, path: tuple[str, ...]) -> Iterator[str]:
    items = list(found or ())
    if path[-1] in ADDED_TO:
        for index, item in enumerate(wanted):
            if not any(not tuple(_differences(item, other, path)) for other in items):
                yield f"{'.'.join(path)}.{index}: is not as it was rendered"
        return
    if len(items) != len(wanted):
        yield f"{'.'.join(path)}: {len(items)} where {len(wanted)} were rendered"
        return
    for index, (one, other) in enumerate(zip(wanted, items, strict=True)):
        yield from _differences(one, other, (*path, str(index)))


def _same(wanted: Any, found: Any) -> bool:
    found = shortened(found)
    if wanted == found and isinstance(wanted, bool) == isinstance(found, bool):
        return True
    if not wanted and not found and not isinstance(wanted, bool):  # nothing, said in another way
        return True
    if isinstance(wanted, str) and type(found) is int and _SPAN.fullmatch(wanted):
        return found == sum(round(float(count) * _NANOSECONDS[unit]) for count, unit in _SPANS.findall(wanted))
    return str(wanted) == found if isinstance(wanted, int) and not isinstance(wanted, bool) else False
