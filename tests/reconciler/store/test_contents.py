"""Bodies by digest: whatever a domain record can say comes back as it was, frozen, with the digest it had."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from desired_state.health import CommandCheck, Health, HttpCheck, TcpCheck
from desired_state.model import DesiredState, Placement, Release, Target
from drivers.contract import Deploy, Footing, Receipt, Remove, Restart, Stamp, claim_of
from reconciler.core.conditions import Condition
from reconciler.core.plan import Intent, Plan
from reconciler.store import contents
from reconciler.store.contents import Kind
from reconciler.store.errors import Corrupt, Missing
from reconciler.store.store import Store
from stickers import digest
from stickers.names import Digest
from tests.reconciler.core.builders import HERE, NOW, fleet

ANY = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
SCALARS: Mapping[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    int: st.integers(1 - 2**53, 2**53 - 1),
    bool: st.booleans(),
    type(None): st.none(),
    Any: ANY,
    datetime: st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    timedelta: st.integers(0, 10**11).map(lambda number: timedelta(milliseconds=number)),
}  # fmt: skip


@cache
def anything(hint: Any) -> st.SearchStrategy[Any]:
    """Every value that the type of a domain record allows, within reason of size."""
    hint = getattr(hint, "__supertype__", hint)
    if hint in SCALARS:
        return SCALARS[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(anything, inner))
    if origin is tuple:
        return _tuples(inner)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(anything(inner[0]), anything(inner[1]), max_size=2)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    assert is_dataclass(hint), hint
    hints = get_type_hints(hint)
    return st.builds(hint, **{field.name: anything(hints[field.name]) for field in fields(hint)})


def _tuples(inner: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if inner[-1] is Ellipsis:
        return st.lists(anything(inner[0]), max_size=2).map(tuple)
    return st.tuples(*map(anything, inner))


RECORDS = (DesiredState, Placement, Target, Release, Plan, Intent, Receipt, Condition)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_record_comes_back_as_it_was(record: type[Any], data: st.DataObject) -> None:
    value = data.draw(anything(record))
    body = contents.dump(record, value)
    again = contents._read(record, body)
    assert again == value
    assert shape(again) == shape(value)  # tuples are tuples again, at every depth
    assert contents.dump(record, again) == body
    assert digest.of(again) == digest.of(value)


def shape(value: Any) -> Any:
    """The shape of a record: its types all the way down."""
    if is_dataclass(value):
        return type(value), tuple(shape(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(shape, value))
    if isinstance(value, dict):
        return dict, tuple(sorted((key, shape(item)) for key, item in value.items())) if value else ()
    return datetime if isinstance(value, datetime) else type(value)


def test_a_body_is_canonical_text() -> None:
    one = replace(fleet(1).targets[0], labels={"a": "1", "b": "ü"})
    other = replace(fleet(1).targets[0], labels={"b": "ü", "a": "1"})
    body = contents.dump(Target, one)
    assert body == contents.dump(Target, other)
    assert body.isascii()
    assert body == json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("check", [TcpCheck(port=80), HttpCheck(port=80), CommandCheck(argv=("true",))])
def test_a_check_is_the_kind_of_check_it_was(check: Any) -> None:
    health = Health(check=check)
    assert contents._read(Health, contents.dump(Health, health)) == health


def test_a_restart_does_not_come_back_as_a_deploy() -> None:
    [placement] = fleet(1).placements
    footing, stamp = Footing(instance="i", artifact=None, configuration=None), Stamp(sequence=1, previous=None)
    changes = (
        Deploy(placement=placement, replaces=footing, stamp=stamp),
        Restart(placement=placement, replaces=footing, stamp=stamp),
        Remove(id=placement.id, claim=claim_of(placement, HERE), replaces=footing, stamp=stamp),
    )
    intent = Intent(target=placement.id.target, changes=changes)
    assert contents._read(Intent, contents.dump(Intent, intent)) == intent


async def test_what_is_kept_is_loaded_by_its_digest(store: Store) -> None:
    desired = fleet(3)
    names = await store.write(lambda c: contents.keep(c, Kind.PLACEMENT, desired.placements, NOW))
    found = await store.read(lambda c: contents.load_all(c, Kind.PLACEMENT, names))
    assert [found[name] for name in names] == list(desired.placements)
    assert names == [digest.of_bytes(contents.dump(Placement, each).encode()) for each in desired.placements]


async def test_the_same_content_is_kept_once(store: Store) -> None:
    desired = fleet(1)
    first = await store.write(lambda c: contents.keep(c, Kind.PLACEMENT, desired.placements * 2, NOW))
    second = await store.write(lambda c: contents.keep(c, Kind.PLACEMENT, desired.placements, NOW))
    assert first == second * 2
    assert await store.read(lambda c: c.execute(text("select count(*) from content")).scalar()) == 1


async def test_what_was_loaded_once_costs_no_statement_again(store: Store) -> None:
    [name] = await store.write(lambda c: contents.keep(c, Kind.DESIRED_STATE, [fleet(1, "7.7.7")], NOW))
    first = await store.read(lambda c: contents.load(c, Kind.DESIRED_STATE, name))
    said: list[str] = []
    event.listen(store._readers, "before_cursor_execute", lambda c, cursor, statement, *_: said.append(statement))
    assert await store.read(lambda c: contents.load(c, Kind.DESIRED_STATE, name)) is first
    assert not [each for each in said if "content" in each]


async def test_what_is_not_kept_is_missing(store: Store) -> None:
    with pytest.raises(Missing, match="the placement sha256:nowhere is not kept"):
        await store.read(lambda c: contents.load(c, Kind.PLACEMENT, Digest("sha256:nowhere")))


async def test_a_body_of_another_kind_is_missing(store: Store) -> None:
    [name] = await store.write(lambda c: contents.keep(c, Kind.PLACEMENT, fleet(1, "8.8.8").placements, NOW))
    with pytest.raises(Missing):
        await store.read(lambda c: contents.load(c, Kind.TARGET, name))


async def test_a_body_that_was_tampered_with_is_corrupt(sqlite: str) -> None:
    store = await Store.open(sqlite)
    [name] = await store.write(lambda c: contents.keep(c, Kind.PLACEMENT, fleet(1, "9.9.9").placements, NOW))
    await store.write(lambda c: c.execute(text("drop trigger content_no_update")))
    await store.write(lambda c: c.execute(text("update content set body = replace(body, '9.9.9', '6.6.6')")))
    with pytest.raises(Corrupt, match="has another digest"):
        await store.read(lambda c: contents.load(c, Kind.PLACEMENT, name))
    await store.aclose()


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"port":"not a number"}', '"\\ud800"'])
def test_a_body_that_does_not_read_is_corrupt(body: str) -> None:
    with pytest.raises(Corrupt, match="not a TcpCheck"):
        contents.read(TcpCheck, body)


def test_what_is_remembered_decoded_has_its_bound() -> None:
    memory = contents._Decoded(room=100)
    for number in range(10):
        memory.keep(number, f"value {number}", 40)
    assert [memory.get(number) for number in range(8, 10)] == ["value 8", "value 9"]
    assert memory.get(7) is None
    assert memory.keep("too large", "a value", 1000) == "a value"
    assert memory.get("too large") is None
    memory.keep("small", "again", 10)
    assert memory.get("small") == "again"


def test_what_was_used_last_is_remembered_longest() -> None:
    memory = contents._Decoded(room=100)
    memory.keep("a", 1, 40)
    memory.keep("b", 2, 40)
    memory.get("a")
    memory.keep("c", 3, 40)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, None, 3)


def test_what_nobody_asks_for_is_not_kept_decoded() -> None:
    memory = contents._Decoded(room=100, idle=-1.0)
    memory.keep("a", "of a job that is long over", 40)
    assert memory.get("a") is None
    memory.keep("b", "fits again", 90)
    assert list(memory._kept) == ["b"]


def test_what_somebody_still_holds_is_found_however_long_ago_it_was_asked_for() -> None:
    memory, [held] = contents._Decoded(room=100, idle=-1.0), fleet(1).placements
    memory.keep("a", held, 40)
    assert memory.get("a") is held
    del held
    assert memory.get("a") is None
