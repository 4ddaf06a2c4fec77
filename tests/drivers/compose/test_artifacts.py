"""The files of a compose project: golden bytes, nothing secret in them, and a kept lock is said again word by word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from desired_state.model import Placement
from drivers.compose import artifacts, lock
from drivers.contract import Rendered, RenderedKind
from drivers.errors import InvalidAction
from tests.drivers.compose.samples import PASSWORD, PLACE, made, placement

GOLDEN = Path(__file__).with_name("golden")


def placements() -> list[Placement]:
    return [placement(environment=(("LOG_LEVEL", "debug"), ("PASSWORD", PASSWORD))), placement("db"), placement("mail")]


def files(kept: tuple[Rendered, ...] = ()) -> dict[RenderedKind, Rendered]:
    return {file.kind: file for file in artifacts.rendered(PLACE, placements(), kept)}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(RenderedKind.COMPOSE_FILE, "compose.yaml"), (RenderedKind.ENV_FILE, "lock.env")],
)
def test_each_file_is_the_one_that_was_agreed_on(kind: RenderedKind, name: str) -> None:
    file = files()[kind]
    assert (file.name, file.of) == (name, tuple(each.id for each in placements()))
    assert file.text == (GOLDEN / name).read_text()


def test_the_lock_is_what_compose_is_told() -> None:
    told = lock.lock(PLACE, [made(each) for each in placements()])
    assert files()[RenderedKind.COMPOSE_LOCK].text.encode() == told
    assert files()[RenderedKind.COMPOSE_LOCK].digest == f"sha256:{lock.hash_of(told)}"


def test_a_kept_lock_gives_back_the_pieces_it_was_made_of() -> None:
    kept = files()[RenderedKind.COMPOSE_LOCK]
    for each in placements():
        assert lock.unlocked(kept.text, PLACE, each) == made(each)


def test_what_was_kept_is_said_again_whatever_would_be_said_today() -> None:
    kept = files()[RenderedKind.COMPOSE_LOCK]
    former = replace(kept, text=kept.text.replace('"restart": "unless-stopped"', '"restart": "always"'))
    assert former.text != kept.text
    assert files((former,))[RenderedKind.COMPOSE_LOCK].text == former.text


def test_a_lock_that_was_kept_of_other_content_is_not_said_again() -> None:
    kept = files()[RenderedKind.COMPOSE_LOCK]
    wanted = placement(environment=(("LOG_LEVEL", "info"),))
    assert artifacts.piece(PLACE, wanted, [kept]) == made(wanted)


@pytest.mark.parametrize("text", ["", "nothing", "services: {}", "services: [", '{"services": {"api": 5}}'])
def test_a_kept_file_that_is_no_lock_is_passed_by(text: str) -> None:
    kept = replace(files()[RenderedKind.COMPOSE_LOCK], text=text)
    assert artifacts.piece(PLACE, placements()[0], [kept]) == made(placements()[0])


def test_a_component_of_which_the_template_says_nothing_is_refused_by_name() -> None:
    silent = replace(placement(), configuration=replace(placement().configuration, template=None))
    with pytest.raises(InvalidAction, match=r"shop/web-1/api: connection\.template"):
        artifacts.rendered(PLACE, [silent], ())
