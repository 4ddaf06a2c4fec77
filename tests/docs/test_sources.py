"""The page about sources: its file of sources is read without a finding, and every reason it names is one."""

from __future__ import annotations

import re
from pathlib import Path

from desired_state.sources import declared

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sources.md").read_text()


def test_its_file_of_sources_is_read_without_a_finding() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = declared.read("sources.yaml", text.encode())
    assert found.findings == ()
    assert [source.name for source in found.sources] == ["shop", "team"]


def test_each_reason_it_names_is_raised_somewhere() -> None:
    code = "\n".join(
        path.read_text() for floor in ("desired_state", "reconciler", "api") for path in (ROOT / floor).rglob("*.py")
    )
    named = set(
        re.findall(
            r"`((?:Source|Branch|Path|History|Signature|Credentials|NoSpace|Git|Documents|Owned|Release)"
            r"[A-Za-z]*)`",
            PAGE,
        )
    )
    assert len(named) > 15
    assert {reason for reason in named if f'"{reason}"' not in code} == set()
