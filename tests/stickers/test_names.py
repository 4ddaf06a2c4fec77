"""The grammars of names: what is accepted is safe in paths, labels and addresses, and the rest is named."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickers import names
from stickers.names import Artifact, ComponentName, InvalidName, PlacementId, SlotName, TargetId
from tests.stickers.made import a_digest, a_name

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("text", ["a", "0", "web-1", "a--b", "a" * 63])
def test_a_name_is_answered_as_it_is(text: str) -> None:
    assert names.name(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", ".", "a" * 64, "a\n", "\na", "a b", "ä", "٣", "ａ", "a\0", "-rf"],
)
def test_a_text_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        names.name(text)


@given(st.text())
def test_no_name_leaves_its_directory_or_becomes_an_option(text: str) -> None:
    try:
        name = names.name(text)
    except InvalidName:
        return
    assert os.path.normpath(os.path.join("/root", name)) == f"/root/{name}"
    assert name.isascii()
    assert not name.startswith("-")


def test_a_refusal_says_what_was_found_and_what_is_expected() -> None:
    with pytest.raises(InvalidName) as error:
        names.name("Web\x1b[31m" + "x" * 200, "target")
    text = str(error.value)
    assert text.startswith("'Web\\x1b[31mxxx")
    assert text.endswith(f"is not a target; expected {names.NAME_RULE}")
    assert len(text) < 300


@pytest.mark.parametrize(
    "text",
    ["sha256:" + HEX.upper(), "sha256:" + HEX[1:], "sha256:" + HEX + "0", "sha512:" + HEX, HEX, f"sha256:{HEX}\n", ""],
)
def test_a_text_that_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        names.digest(text)


def test_a_digest_is_answered_as_it_is() -> None:
    assert names.digest(f"sha256:{HEX}") == f"sha256:{HEX}"


@pytest.mark.parametrize("text", ["shop@2.3.1", "shop@1", "s@1.0.0-rc.1+build_5", "shop@v" + "1" * 127])
def test_a_release_is_a_name_and_a_version(text: str) -> None:
    line, version = names.line_and_version(names.release_name(text))
    assert f"{line}@{version}" == text


@pytest.mark.parametrize(
    "text", ["shop", "shop@", "@1", "Shop@1", "shop@1@2", "shop@-1", "shop@1/2", "shop@1 ", "shop@" + "1" * 129]
)
def test_a_text_that_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        names.release_name(text)


@given(project=a_name, name=a_name)
def test_a_qualified_id_comes_apart_again(project: str, name: str) -> None:
    assert names.split_id(names.environment_id(project, name)) == (project, name)
    assert names.split_id(names.target_id(project, name)) == (project, name)


@given(project=a_name, name=a_name, number=st.integers(1, 10**9))
def test_a_job_knows_its_environment(project: str, name: str, number: int) -> None:
    environment = names.environment_id(project, name)
    assert names.environment_of(names.job_id(environment, number)) == environment


@pytest.mark.parametrize("make", [names.environment_id, names.target_id])
@pytest.mark.parametrize(("project", "name"), [("a/b", "c"), ("a", "b/c"), ("", "c"), ("a", "")])
def test_a_slash_cannot_be_smuggled_into_an_id(make, project: str, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidName):
        make(project, name)


REPOSITORIES = [
    "shop",
    "shop/api",
    "registry.example.com/shop/api",
    "registry.example.com:5000/shop",
    "localhost:5000/shop",
    "127.0.0.1:5000/shop",
    "[::1]:5000/shop",
    "Registry.Example.COM/shop",
    "registry.example.com/a.b/c__d/e---f",
]


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_a_pinned_image_comes_apart_and_together_again(repository: str) -> None:
    artifact = Artifact.parse(f"{repository}@sha256:{HEX}")
    assert (artifact.repository, artifact.digest) == (repository, f"sha256:{HEX}")
    assert Artifact.parse(str(artifact)) == artifact


@pytest.mark.parametrize(
    "text",
    [
        "shop",
        "shop:v1",
        f"shop:v1@sha256:{HEX}",
        f"shop@sha256:{HEX}@sha256:{HEX}",
        f"@sha256:{HEX}",
        f"sha256:{HEX}",
        f"Shop@sha256:{HEX}",
        f"../shop@sha256:{HEX}",
        f"shop/../api@sha256:{HEX}",
        f"shop//api@sha256:{HEX}",
        f"/shop@sha256:{HEX}",
        f"https://registry.example.com/shop@sha256:{HEX}",
        f"user@registry.example.com/shop@sha256:{HEX}",
        f"registry.example.com:port/shop@sha256:{HEX}",
        f"-registry.example.com/shop@sha256:{HEX}",
        f"shop @sha256:{HEX}",
        f"shop\n@sha256:{HEX}",
    ],
)
def test_a_text_that_pins_no_image_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Artifact.parse(text)


@given(st.lists(a_digest, min_size=2, max_size=2))
def test_artifacts_are_ordered(digests: list[names.Digest]) -> None:
    one, two = (Artifact("shop", content) for content in digests)
    assert (one < two) == (one.digest < two.digest)


def test_a_placement_is_shown_with_its_slot_where_that_is_not_live() -> None:
    target, component = TargetId("shop/web-1"), ComponentName("api")
    assert str(PlacementId(target, component)) == "shop/web-1/api"
    assert str(PlacementId(target, component, SlotName("canary"))) == "shop/web-1/api[canary]"
