"""What a plan says of the difference between two jobs, in the words of Nomad's JobDiff."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

IGNORED = frozenset(
    {"Version", "CreateIndex", "ModifyIndex", "JobModifyIndex", "Status", "Stable", "SubmitTime", "TaskGroups", "Tasks"}
)


def diff(was: Json | None, now: Json) -> Json:
    found = _object("", was or {}, now)
    found["TaskGroups"] = _named(was, now, "TaskGroups", _group)
    found["Type"] = "Edited" if found["Fields"] or found["Objects"] or found["TaskGroups"] else "None"
    return {"ID": now["ID"]} | found


def _group(was: Json, now: Json) -> Json:
    return _object(now["Name"], was, now) | {"Tasks": _named(was, now, "Tasks", lambda one, other: _task(one, other))}


def _task(was: Json, now: Json) -> Json:
    return _object(now["Name"], was, now)


def _named(was: Json | None, now: Json, field: str, of: Any) -> list[Json]:
    before = {one["Name"]: one for one in (was or {}).get(field) or ()}
    made = []
    for one in now.get(field) or ():
        if before.get(one["Name"]) != one:
            made.append(of(before.get(one["Name"], {}), one))
    return made


def _object(name: str, was: Json, now: Json) -> Json:
    fields, objects = [], []
    for key in sorted((was.keys() | now.keys()) - IGNORED):
        old, new = was.get(key), now.get(key)
        if old == new:
            continue
        if key in ("Env", "Meta"):
            fields += [
                _field(f"{key}[{inner}]", old or {}, new or {}, inner) for inner in {**(old or {}), **(new or {})}
            ]
        elif isinstance(old, dict) or isinstance(new, dict):
            objects.append(_object(key, old or {}, new or {}))
        else:
            fields.append(_field(key, was, now, key))
    return {"Name": name, "Type": "Edited", "Fields": fields, "Objects": objects}


def _field(name: str, was: Json, now: Json, key: str) -> Json:
    old, new = was.get(key), now.get(key)
    kind = "None" if old == new else "Added" if old is None else "Deleted" if new is None else "Edited"
    return {"Name": name, "Type": kind, "Old": str(old or ""), "New": str(new or "")}
