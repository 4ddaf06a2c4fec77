"""The policy is read strictly: every finding at once, each with its line and its field."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from api.problem import Problem
from api.signer import policy
from api.signer.place import STARTER
from tests.api.signer.papers import POLICY

GOOD: Final = POLICY.format(documents="documents: {directory: /srv/documents}", verbs="health-check", more="")

FLAWED: Final = {
    "a misspelt field": ("    per_minute: 3", "    per_minutes: 3", 12, "rules[0].per_minutes"),
    "a verb there is not": ("health-check", "reboot", 10, "rules[0].verbs[6]"),
    "a pattern that is none": ("[default/web-*]", "['default/web-[a]']", 9, "rules[0].targets[0]"),
    "a repository that is none": ("registry.example.com/shop/*", "'; rm'", 11, "rules[0].repositories[0]"),
    "nobody who may ask": ("{users: [0]}", "{}", 3, "ask"),
    "documents of both kinds": ("/srv/documents}", "/srv/documents, sources: /srv/x}", 4, "documents"),
    "a limit of nothing": ("per_minute: 3", "per_minute: 0", 12, "rules[0].per_minute"),
    "a limit that is a text": ("per_minute: 3", "per_minute: '3'", 12, "rules[0].per_minute"),
    "commands without their verb": ("per_minute: 3", "commands: [x]", 6, "rules[0]"),
    "a hold without its length": ("health-check", "hold", 6, "rules[0]"),
    "another kind": ("SignerPolicy", "Policy", 2, "kind"),
}


@pytest.mark.parametrize("flaw", FLAWED)
def test_a_flaw_is_found_where_it_stands(flaw: str) -> None:
    good, bad, line, path = FLAWED[flaw]
    assert good in GOOD
    found, findings = policy.parsed("policy.yaml", GOOD.replace(good, bad, 1).encode())
    assert found is None
    assert (findings[0].file, findings[0].line, findings[0].path) == ("policy.yaml", line, path)


def test_without_documents_a_rule_that_deploys_names_its_repositories() -> None:
    text = POLICY.format(documents="", verbs="health-check", more="")
    assert policy.parsed("policy.yaml", text.encode())[1] == ()
    bare = text.replace("    repositories: [registry.example.com/shop/*]\n", "")
    assert [one.path for one in policy.parsed("policy.yaml", bare.encode())[1]] == ["rules[0].repositories"]


def test_two_rules_of_one_name_are_refused() -> None:
    rule = GOOD[GOOD.index("  - name") :]
    assert "a second time" in str(policy.parsed("policy.yaml", (GOOD + rule).encode())[1])


def test_what_it_begins_with_has_no_findings() -> None:
    assert policy.parsed("policy.yaml", STARTER.encode())[1] == ()


def test_a_problem_holds_every_finding(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD.replace("health-check", "reboot").replace("per_minute: 3", "per_minute: 0"))
    with pytest.raises(Problem) as raised:
        policy.read(file)
    assert raised.value.code == "POLICY_INVALID"
    assert len(raised.value.extra["findings"]) == 2


def test_a_missing_file_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="holdfast signer init"):
        policy.read(tmp_path / "none.yaml")
