"""`holdfast settings`: what is set and where that comes from; the reference, and the commented file a newcomer begins
with, are made of the same words."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any, Final

from api.cli import show
from api.problem import OK
from api.settings import DEFAULTS, FILE, LEAST, MEANINGS, PREFIX, Settings
from api.settings_file import HEAD

MASK: Final = "***"
_LOGIN: Final = re.compile(r"(?<=://)([^/@\s:]*):[^/\s]*@")  # of an address: up to its last @ before the path
_QUERY: Final = re.compile(r"(?<=[?&])((?:ssl)?password)=[^&#]*", re.IGNORECASE)
INTRODUCTION: Final = f"""\
# Settings

Each may stand in one YAML file, which `--settings FILE` or `{FILE}` names, under its name; in the environment, as
`{PREFIX}` and its name in capitals; and where a command has an option for it, on the command line. The command line
wins over the environment, and the environment over the file. A name that nobody knows and a value that cannot be meant
are errors that name the place and what would be right. `holdfast settings` shows every setting with where its value
comes from; `holdfast settings --output yaml` writes a commented file. Paths are taken from the working directory. No
default points at another machine.

```yaml
apiVersion: {HEAD["apiVersion"]}
kind: {HEAD["kind"]}
state: /var/lib/holdfast
listen: 127.0.0.1:8420
```
"""


def settings(settings: Settings, given: Namespace) -> int:
    origins: Mapping[str, str] = given.origins
    if given.output == "json":
        show.as_json({"settings": {name: _described(settings, origins, name) for name in MEANINGS}})
    elif given.output == "markdown":
        print(reference(), end="")
    elif given.output == "yaml":
        print(commented(), end="")
    else:
        rows = [
            (name, show.brief(shown(settings, name)), show.clean(origins.get(name, "default"))) for name in MEANINGS
        ]
        show.columns(("setting", "value", "from"), rows)
    return OK


def _described(settings: Settings, origins: Mapping[str, str], name: str) -> dict[str, Any]:
    value = getattr(settings, name)
    told = value if isinstance(value, int) else shown(settings, name) or None
    return {"value": told, "from": origins.get(name, "default"), "variable": PREFIX + name.upper()}


def shown(settings: Settings, name: str) -> str:
    """The value for whoever looks: secrets, and passwords in addresses, are masked."""
    value = getattr(settings, name)
    if value is None or value == "":
        return ""
    if MEANINGS[name].secret:
        return MASK
    return _QUERY.sub(rf"\1={MASK}", _LOGIN.sub(rf"\1:{MASK}@", str(value)))


def _groups() -> Iterator[tuple[str, list[str]]]:
    for group in dict.fromkeys(meaning.group for meaning in MEANINGS.values()):
        yield group, [name for name, meaning in MEANINGS.items() if meaning.group == group]


def reference() -> str:
    """docs/settings.md."""
    parts = [INTRODUCTION]
    for group, names in _groups():
        rows = "".join(f"| `{name}` | {_default(name)} | {_sentence(name)} |\n" for name in names)
        parts.append(f"\n## {group}\n\n| setting | default | what it is |\n|---|---|---|\n{rows}")
    return "".join(parts)


def commented() -> str:
    """A file of settings in which nothing is set yet."""
    lines = [
        "# The settings of Holdfast: `--settings FILE`, or HOLDFAST_SETTINGS=FILE. What stands behind a single # is an",
        "# example or the default; take the # away to set it. The environment and the command line win over this file.",
        *(f"{name}: {value}" for name, value in HEAD.items()),
    ]
    for group, names in _groups():
        lines += ["", f"## {group}"]
        for name in names:
            meaning = MEANINGS[name]
            lines += ["", f"## {_sentence(name)}"]
            lines.append(f"# {name}: {meaning.example or _default(name).strip('`') or '...'}")
    return "\n".join(lines) + "\n"


def _sentence(name: str) -> str:
    meaning = MEANINGS[name]
    if meaning.choices:
        return f"{meaning.says} One of {', '.join(meaning.choices)}."
    if isinstance(getattr(DEFAULTS, name), int):
        return f"{meaning.says} {LEAST} to {meaning.most}."
    return meaning.says


def _default(name: str) -> str:
    value = getattr(DEFAULTS, name)
    return f"`{value}`" if value not in (None, "") else ""
