"""People as they are kept: on both databases, with what ends when they change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from reconciler.store import audit, engines, people
from reconciler.store.errors import Missing, Violated
from reconciler.store.people import Granted, NameTaken, Person, Session
from reconciler.store.store import Store
from tests.reconciler.core.builders import NOW
from tests.reconciler.store.builders import LATER, token

ADA = Person(id="p1", name="ada", password="hash", created_at=NOW, created_by="boss")
OIDA = Person(
    id="p2", name="oda@idp", issuer="https://idp", subject="1", groups=("a", "b"), created_at=NOW, created_by="x"
)
READ, ALL = Granted("read", "shop/*"), Granted("viewer", "*")


def session(person: str = "p1", hash: str = "h1") -> Session:
    return Session(hash=hash, person=person, begun_at=NOW, seen_at=NOW, ends_at=NOW + timedelta(hours=12))


async def begun(store: Store, *persons: Person) -> None:
    def both(c: Connection) -> None:
        for person in persons:
            people.add(c, person)
            people.begin(c, session(person.id, f"h-{person.id}"), person.name, "password")

    await store.write(both)


async def open_sessions(store: Store) -> list[str]:
    found = [await store.read(lambda c, key=key: people.session(c, key)) for key in ("h-p1", "h-p2")]
    return [each.person for each in found if each is not None]


async def test_people_are_found_by_name_id_and_identity(store: Store) -> None:
    await begun(store, ADA, OIDA)
    assert await store.read(lambda c: people.by_name(c, "ada")) == ADA
    assert await store.read(lambda c: people.by_id(c, "p2")) == OIDA
    assert await store.read(lambda c: people.by_identity(c, "https://idp", "1")) == OIDA
    assert await store.read(lambda c: people.by_name(c, "joe")) is None
    assert await store.read(people.all) == (ADA, OIDA)


async def test_a_name_and_an_identity_are_one_persons(store: Store) -> None:
    await begun(store, ADA, OIDA)
    for twin in (replace(ADA, id="p9"), replace(OIDA, id="p9", name="other")):
        with pytest.raises(NameTaken):
            await store.write(lambda c, twin=twin: people.add(c, twin))


@pytest.mark.parametrize(
    "changes", [{"password": None}, {"issuer": "https://idp", "subject": "2"}, {"issuer": "https://idp"}]
)
async def test_somebody_is_known_in_one_way(store: Store, changes: dict[str, str | None]) -> None:
    with pytest.raises(Violated, match="person_"):
        await store.write(lambda c: people.add(c, replace(ADA, **changes)))


async def test_the_first_is_first_once(store: Store) -> None:
    assert await store.write(lambda c: people.add_first(c, ADA, [ALL]))
    assert not await store.write(lambda c: people.add_first(c, replace(ADA, id="p9", name="joe"), [ALL]))
    assert await store.read(lambda c: people.grants(c, ["p1", "p9"])) == (ALL,)


def test_of_those_who_start_at_once_one_makes_the_first(postgresql: str) -> None:
    def starts(number: int) -> bool:
        engine = engines.writer(postgresql)
        try:
            with engine.begin() as c:
                return people.add_first(c, replace(ADA, id=f"p{number}"), [ALL])
        finally:
            engine.dispose()

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(starts, range(6))) == [False] * 5 + [True]


async def test_sessions_of_a_person_end_with_every_change_and_nobody_elses(store: Store) -> None:
    changes = (
        lambda c: people.set_password(c, "p1", "other", "boss", NOW),
        lambda c: people.grant(c, "p1", "ada", READ, "boss", NOW),
        lambda c: people.revoke(c, "p1", "ada", READ, "boss", NOW),
        lambda c: people.disable(c, "p1", "boss", NOW),
    )
    await begun(store, ADA, OIDA)
    for change in changes:
        await store.write(change)
        assert await open_sessions(store) == ["p2"]
        await store.write(lambda c: people.begin(c, session("p1", "h-p1"), "ada", "password"))


async def test_sessions_of_a_group_end_with_what_it_is_granted(store: Store) -> None:
    await begun(store, ADA, OIDA)
    await store.write(lambda c: people.grant(c, "group:c", "group:c", READ, "boss", NOW))
    assert await open_sessions(store) == ["p1", "p2"]
    await store.write(lambda c: people.grant(c, "group:b", "group:b", READ, "boss", NOW))
    assert await open_sessions(store) == ["p1"]


async def test_sessions_end_when_the_provider_says_other_groups(store: Store) -> None:
    await begun(store, ADA, OIDA)
    await store.write(lambda c: people.set_groups(c, OIDA, ("a", "b"), NOW))
    assert await open_sessions(store) == ["p1", "p2"]
    changed = await store.write(lambda c: people.set_groups(c, OIDA, ("a",), NOW))
    assert changed.holders == ("p2", "group:a")
    assert await open_sessions(store) == ["p1"]


async def test_a_harder_hash_ends_nothing_and_overwrites_no_other_password(store: Store) -> None:
    await begun(store, ADA)
    await store.write(lambda c: people.rehash(c, "p1", "hash", "harder"))
    assert await open_sessions(store) == ["p1"]
    await store.write(lambda c: people.rehash(c, "p1", "hash", "late"))
    ada = await store.read(lambda c: people.by_id(c, "p1"))
    assert ada is not None
    assert ada.password == "harder"


async def test_sessions_that_ended_long_ago_are_swept_with_the_next_login(store: Store) -> None:
    await begun(store, ADA)
    later = replace(session("p1", "h2"), begun_at=NOW + timedelta(days=1), ends_at=NOW + timedelta(days=2))
    await store.write(lambda c: people.begin(c, later, "ada", "password"))
    assert await store.read(lambda c: people.session(c, "h-p1")) is None


async def test_a_grant_is_given_once_and_taken_once(store: Store) -> None:
    await begun(store, ADA)
    given = [await store.write(lambda c: people.grant(c, "p1", "ada", READ, "boss", NOW)) for _ in range(2)]
    taken = [await store.write(lambda c: people.revoke(c, "p1", "ada", READ, "boss", NOW)) for _ in range(2)]
    assert (given, taken) == ([True, False], [True, False])
    assert await store.read(lambda c: people.granted_to(c)) == {}


async def test_a_token_is_revoked_once_and_for_ever(store: Store) -> None:
    await store.write(lambda c: people.add_token(c, token()))
    assert await store.write(lambda c: people.revoke_token(c, "t1", "boss", NOW))
    assert not await store.write(lambda c: people.revoke_token(c, "t1", "joe", LATER))
    found = await store.read(lambda c: people.token(c, "t1"))
    assert found == token(revoked_at=NOW, revoked_by="boss")
    with pytest.raises(Missing):
        await store.write(lambda c: people.revoke_token(c, "t9", "boss", NOW))


async def test_nobody_unknown_is_changed(store: Store) -> None:
    for change in (people.disable, people.enable):
        with pytest.raises(Missing):
            await store.write(lambda c, change=change: change(c, "p9", "boss", NOW))
    assert await store.read(audit.chains) == ()
