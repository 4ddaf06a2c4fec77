"""Passwords, roles, limits and peers, each by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.people import passwords, roles
from api.people.limits import Limit, network
from api.people.passwords import Cost
from api.people.principal import EVERYWHERE, Grant, Principal, Verb
from api.people.roles import ROLES
from api.problem import Problem
from reconciler.store.people import Granted
from stickers.names import EnvironmentId

CHEAP = Cost(n=16)


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# -- passwords --------------------------------------------------------------------------------------------------------


async def test_a_password_fits_itself_alone() -> None:
    for password, other in (
        ("correct horse", "correct horsf"),
        ("päßwörter sind", "päßwörter sind "),
        ("x" * 256, "x" * 257),
    ):
        kept = await passwords.encoded(password, CHEAP)
        assert await passwords.fits(password, kept)
        assert not await passwords.fits(other, kept)


async def test_two_hashes_of_one_password_differ() -> None:
    assert await passwords.encoded("correct horse", CHEAP) != await passwords.encoded("correct horse", CHEAP)


async def test_nothing_fits_nobodys() -> None:
    assert not await passwords.fits("", None)
    assert not await passwords.fits("correct horse", None)


def test_only_hashes_of_today_s_cost_are_not_outdated() -> None:
    assert not passwords.outdated(passwords.NOBODYS)
    assert passwords.outdated(passwords.NOBODYS.replace("32768", "16384"))


@pytest.mark.parametrize("kept", ["", "x", "scrypt$1$1", "argon2$16$8$1$AA$AA", "scrypt$99999999999$8$1$AA$AA"])
async def test_a_hash_that_does_not_read_is_said_to_be_damaged(kept: str) -> None:
    with pytest.raises(Problem, match="does not read"):
        await passwords.fits("x", kept or "x")


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
def test_a_password_of_another_length_is_refused(password: str) -> None:
    with pytest.raises(Problem, match="from 12 to 256"):
        passwords.check(password)


def test_made_passwords_may_be_set_and_differ() -> None:
    made = {passwords.made() for _ in range(50)}
    assert len(made) == 50
    for each in made:
        passwords.check(each)


# -- roles ------------------------------------------------------------------------------------------------------------


def test_no_role_both_asks_and_approves_nor_administers_and_approves() -> None:
    for verbs in ROLES.values():
        if Verb.APPROVE in verbs:
            assert verbs == {Verb.READ, Verb.APPROVE}


def test_nothing_is_granted_that_is_not_written_down() -> None:
    assert roles.grants([Granted("superuser", "*"), Granted("", "*")]) == ()
    assert Principal(actor="ada").may(Verb.READ) is False


PLACES = st.sampled_from(["*", "shop/*", "shop/prod", "shop/staging", "bank/*", "bank/prod"])
GRANTS = st.builds(Grant, verb=st.sampled_from(list(Verb)[:3]), where=PLACES)
ENVIRONMENTS = [EnvironmentId(text) for text in ("shop/prod", "shop/staging", "bank/prod", "bank/new")]


@given(GRANTS, st.lists(GRANTS, max_size=4))
def test_what_is_within_other_grants_allows_nothing_that_they_do_not(grant: Grant, others: list[Grant]) -> None:
    one, all = Principal(actor="a", grants=(grant,)), Principal(actor="b", grants=tuple(others))
    if roles.within(grant, others):
        for environment in (None, *ENVIRONMENTS):
            assert all.may(grant.verb, environment) or not one.may(grant.verb, environment)
    if grant.where in ENVIRONMENTS:
        assert roles.within(grant, others) == all.may(grant.verb, EnvironmentId(grant.where))


@pytest.mark.parametrize(
    ("text", "place"), [("*", EVERYWHERE), ("prod", "default/prod"), ("shop/*", "shop/*"), ("shop/prod", "shop/prod")]
)
def test_places_are_read(text: str, place: str) -> None:
    assert roles.checked_place(text) == place


@pytest.mark.parametrize(
    "text", ["", "*/prod", "*/*", "shop/", "/prod", "a/b/c", "Shop/prod", "shop/**", "shop/pr*", " *"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="is no place"):
        roles.checked_place(text)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_key_is_let_try_so_often_and_again_when_its_time_is_over() -> None:
    ticks = Ticks()
    limit = Limit(2, 60, clock=ticks)
    for _ in range(2):
        assert limit.wait("a") == 0
        limit.count("a")
    assert limit.wait("a") == 60
    assert limit.wait("b") == 0
    ticks.now = 60
    assert limit.wait("a") == 0


def test_what_succeeded_is_forgiven_and_nothing_more() -> None:
    limit = Limit(2, 60, clock=Ticks())
    limit.count("a")
    limit.count("a")
    limit.forgive("a")
    limit.count("a")
    assert limit.wait("a") > 0


def test_a_full_map_denies_and_forgets_nobody() -> None:
    ticks = Ticks()
    limit = Limit(1, 60, capacity=3, clock=ticks)
    limit.count("guesser")
    ticks.now = 1
    for name in ("b", "c", "d", "e"):
        limit.count(name)
    assert limit.wait("guesser") > 0  # flooding the map with others has not flushed it out
    assert limit.wait("new") > 0
    ticks.now = 60
    assert limit.wait("new") == 0


def test_a_full_map_stays_bounded() -> None:
    limit = Limit(1, 60, capacity=10, clock=Ticks())
    for number in range(1000):
        limit.count(str(number))
    assert len(limit._counts) == 10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_peers_are_counted_by_what_one_customer_has(one: str, other: str, same: bool) -> None:
    assert (network(one) == network(other)) is same
