"""What stands in a service's tags is read as it was written; what is garbled is never read as something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ecs import tags
from drivers.ecs.tags import Deed, Work
from stickers.names import ActionKey, ComponentName, InstallationId, TargetId
from stickers.signature import Envelope

API, LONGER = ComponentName("api"), ComponentName("api-admin")
KEY, OTHER = ActionKey("a" * 64), ActionKey("b" * 64)
DEPLOYMENT = "ecs-svc/1234567890123456789"
DEED = Deed(key=OTHER, content="0123456789ab", since=DEPLOYMENT)


@pytest.mark.parametrize(
    "work",
    [
        Work(),
        Work(fence=7),
        Work(key=KEY, content="0123456789ab", fence=7),
        Work(fence=10**18, deed=DEED),
        Work(key=KEY, content="0123456789ab", fence=10**18, deed=DEED),
    ],
)
def test_what_was_done_is_read_as_it_was_written_and_fits(work: Work) -> None:
    text = tags.work_text(work)
    assert len(text) <= 256
    assert tags.work({tags.work_key(API): text}, API) == work
    assert tags.work({tags.work_key(API): text}, LONGER) is None


@given(st.text(max_size=300))
def test_what_is_garbled_reads_as_nothing_or_as_keys(text: str) -> None:
    found = tags.work({tags.work_key(API): text}, API)
    assert found is None or found.key is None or len(found.key) == 64
    assert all(":" in one for one in tags.kept({tags.kept_key(API): text}, API))


def test_predecessors_are_kept_in_order_once_and_as_many_as_fit() -> None:
    written = tags.kept_text(["shop:4", "shop:2", "shop:4", "shop:1"])
    assert tags.kept({tags.kept_key(API): written}, API) == ("shop:4", "shop:2", "shop:1")
    long = [f"{'f' * 100}:{number}" for number in range(5)]
    assert tags.kept({tags.kept_key(API): tags.kept_text(long)}, API) == tuple(long[:2])


@given(st.integers(min_value=0, max_value=4000))
def test_a_sticker_is_read_as_it_was_written(size: int) -> None:
    envelope = Envelope('{"a":"' + "x" * size + '"}')
    written = tags.sticker_tags(API, envelope)
    assert all(len(key) <= 128 and len(value) <= 256 for key, value in written.items())
    worn = tags.worn(written, API)
    assert worn is not None
    assert (worn.envelope, worn.problem) == (envelope, None)
    assert tags.worn(written, LONGER) is None


def test_chunks_left_of_a_longer_sticker_are_not_read() -> None:
    longer = tags.sticker_tags(API, Envelope("x" * 2000))
    shorter = tags.sticker_tags(API, Envelope("y" * 500))
    worn = tags.worn(longer | shorter, API)
    assert worn is not None
    assert worn.envelope == "y" * 500
    assert set(tags.chunk_keys(longer | shorter, API)) == set(longer)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        ({"holdfast:api:00": ""}, "does not say how many"),
        ({"holdfast:api:00": "01/02:abc"}, "does not say how many"),
        ({"holdfast:api:01": "00/03:abc"}, "not complete"),
        ({"holdfast:api:01": "01/03:!!!"}, "not base64url"),
    ],
)
def test_a_garbled_sticker_is_seen_and_not_read(spoil: dict[str, str], problem: str) -> None:
    written = tags.sticker_tags(API, Envelope("x" * 500))
    assert len(written) == 3
    worn = tags.worn(written | spoil, API)
    assert worn is not None
    assert worn.envelope is None
    assert problem in (worn.problem or "")


def test_a_missing_chunk_is_seen() -> None:
    written = tags.sticker_tags(API, Envelope("x" * 500))
    for key, problem in (("holdfast:api:00", "first chunk is missing"), ("holdfast:api:02", "not complete")):
        worn = tags.worn({name: value for name, value in written.items() if name != key}, API)
        assert worn is not None
        assert problem in (worn.problem or "")


def test_tags_of_components_are_told_from_those_of_others() -> None:
    ours = {tags.work_key(API), tags.kept_key(LONGER), "holdfast:api:07"}
    assert tags.of_component({*ours, tags.OWNER, tags.TASKS, "team", "holdfast:api:x"}) == ours


def test_an_owner_is_installation_and_target() -> None:
    assert tags.owner(InstallationId("home"), TargetId("default/shop")) == "home default/shop"
