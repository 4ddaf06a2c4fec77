"""The page about people says of roles what they are."""

from __future__ import annotations

import re
from pathlib import Path

from api.people.roles import ROLES

PAGE = (Path(__file__).parents[2] / "docs" / "people.md").read_text()


def test_its_table_of_roles_is_what_roles_are() -> None:
    rows = re.findall(r"^\| (\w+) \| ([a-z., ]+) \|$", PAGE, re.MULTILINE)
    told = {name: set(verbs.split(", ")) for name, verbs in rows if name != "role"}
    assert told == {name: {verb.value for verb in verbs} for name, verbs in ROLES.items()}
