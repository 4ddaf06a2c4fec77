"""Kinds of drivers: the built-in ones, those of others, and clear words for what cannot be used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Protocol

import pytest
from pydantic import BaseModel

from drivers import registry
from drivers.conformance import proper_tools
from drivers.contract import Capabilities, Driver, Tools, Unit
from drivers.registry import BrokenDriver, UnknownKind


class Declare(Protocol):
    def __call__(self, *points: tuple[str, str], **contents: object) -> None: ...


class Connection(BaseModel):
    address: str


class Quay:
    """The driver of another distribution, as far as the registry looks at it."""

    kind = "quay"
    capabilities = Capabilities(unit=Unit.TARGET)
    connection = Connection

    def __init__(self, tools: Tools) -> None:
        self.tools = tools


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare entry points to a module that holds `Quay` and whatever else is given."""

    def declare(*points: tuple[str, str], **contents: object) -> None:
        module = ModuleType("quay_for_holdfast")
        vars(module).update({"Quay": Quay} | contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        declared = tuple(EntryPoint(name, value, registry.GROUP) for name, value in points)
        monkeypatch.setattr(registry, "_points", lambda: declared)

    return declare


@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_built_in_kinds_load_their_driver_and_their_connection_model(kind: str) -> None:
    assert registry.load(kind).kind == kind
    assert issubclass(registry.connection_model(kind), BaseModel)


def test_every_connection_model_is_frozen_strict_and_refuses_unknown_keys() -> None:
    for kind in registry.BUILT_IN:
        config = registry.connection_model(kind).model_config
        assert (config.get("frozen"), config.get("strict"), config.get("extra")) == (True, True, "forbid"), kind


def test_connection_models_import_no_sdk() -> None:
    code = (
        "import sys; from drivers import registry;"
        "[registry.connection_model(kind) for kind in registry.BUILT_IN if kind != 'memory'];"
        "slow = {'asyncssh', 'boto3', 'docker', 'httpx2', 'nomad', 'requests', 'sqlalchemy'};"
        "found = slow & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kinds_lists_built_in_and_declared_ones_in_order(declare: Declare) -> None:
    declare(("quay", "quay_for_holdfast:Quay"))
    assert registry.kinds() == tuple(sorted([*registry.BUILT_IN, "quay"]))


def test_a_declared_kind_is_loaded_with_the_connection_model_of_its_class(declare: Declare) -> None:
    declare(("quay", "quay_for_holdfast:Quay"))
    loaded: object = registry.load("quay")
    assert loaded is Quay
    assert registry.connection_model("quay") is Connection


def test_nothing_of_a_declared_driver_is_imported_before_it_is_asked_for(declare: Declare) -> None:
    declare(("quay", "no_such_module:Quay"))
    assert "quay" in registry.kinds()
    with pytest.raises(BrokenDriver, match=r"driver 'quay' of unknown cannot be used: .*no_such_module"):
        registry.load("quay")


def test_an_unknown_kind_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownKind, match=r"no driver of kind 'dokcer' is installed.*did you mean docker\?") as caught:
        registry.load("dokcer")
    assert caught.value.nearest == "docker"


def test_a_kind_unlike_any_other_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(UnknownKind, match=rf"known are {', '.join(sorted(registry.BUILT_IN))}$"):
        registry.connection_model("mainframe")


def test_a_built_in_kind_cannot_be_taken_over(declare: Declare) -> None:
    declare(("memory", "quay_for_holdfast:Quay"))
    loaded: object = registry.load("memory")
    assert loaded is not Quay


def test_a_kind_declared_twice_is_refused_until_one_is_gone(declare: Declare) -> None:
    declare(("quay", "quay_for_holdfast:Quay"), ("quay", "other:Quay"))
    with pytest.raises(BrokenDriver, match="declared more than once"):
        registry.load("quay")


def test_a_class_that_says_another_kind_is_refused(declare: Declare) -> None:
    declare(("pier", "quay_for_holdfast:Quay"))
    with pytest.raises(BrokenDriver, match="says its kind is 'quay'"):
        registry.load("pier")


def test_a_class_without_capabilities_is_refused(declare: Declare) -> None:
    declare(("bare", "quay_for_holdfast:Bare"), Bare=type("Bare", (), {"kind": "bare"}))
    with pytest.raises(BrokenDriver, match="capabilities"):
        registry.load("bare")


def test_a_connection_that_is_no_model_is_refused(declare: Declare) -> None:
    declare(("bare", "quay_for_holdfast:Bare"), Bare=type("Bare", (), {"kind": "bare", "connection": dict}))
    with pytest.raises(BrokenDriver, match="not a pydantic model"):
        registry.connection_model("bare")


def test_a_loaded_class_makes_a_driver_from_tools_alone() -> None:
    made: Driver = registry.load("memory")(proper_tools())
    assert made.kind == "memory"
