"""`holdfast drivers`, as a person and as a program reads it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from api.cli.main import main
from drivers import registry
from drivers.contract import Against, Capabilities, Unit
from drivers.registry import BUILT_IN


def declare(monkeypatch: pytest.MonkeyPatch, value: str, **contents: object) -> None:
    module = ModuleType("quay_for_holdfast")
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "_points", lambda: (EntryPoint("quay", value, registry.GROUP),))


class Quay:
    kind = "quay"
    capabilities = Capabilities(unit=Unit.TARGET)


def test_every_built_in_kind_says_what_it_was_verified_against() -> None:
    for kind in BUILT_IN:
        found = registry.verified(registry.load(kind))
        assert found is not None, kind
        assert found.against in Against
        assert found.by


def test_powers_are_listed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drivers"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "events, logs, adopts" in lines["docker"]
    assert "real: Docker engines" in lines["docker"]
    assert "adopts" not in lines["process"]
    assert "one component at a time" in lines["process"]


def test_powers_are_data_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drivers", "--output", "json"]) == 0
    rows = {row["kind"]: row for row in json.loads(capsys.readouterr().out)["drivers"]}
    assert set(BUILT_IN) <= set(rows)
    assert rows["process"]["verified"]["against"] == "real"
    assert (rows["process"]["unit"], rows["process"]["logs"], rows["process"]["adopts"]) == ("component", True, False)


def test_what_others_bring_is_listed_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(monkeypatch, "quay_for_holdfast:Quay", Quay=Quay)
    assert main(["drivers"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("quay"))
    assert "the target as a whole" in line
    assert "it does not say" in line


def test_one_that_cannot_be_used_is_named_and_the_others_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(monkeypatch, "quay_for_holdfast:Gone")
    assert main(["drivers"]) == 1
    text = capsys.readouterr().out
    assert "quay: driver 'quay' of" in text
    assert "docker" in text
    assert main(["drivers", "--output", "json"]) == 1
