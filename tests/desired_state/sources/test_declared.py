"""The file of sources: what may be declared, and the finding of everything that may not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from desired_state.sources.declared import read

HEAD = "apiVersion: holdfast/v1\nkind: Source\nname: shop\n"
GIT = HEAD + "git: {repository: 'https://git.example.com/shop.git', path: deploy}\n"


def codes(text: str) -> list[str]:
    declared = read("sources.yaml", text.encode())
    assert bool(declared.findings) != bool(declared.sources)
    return [finding.code for finding in declared.findings]


def test_a_repository_is_declared_with_what_is_left_out_filled_in() -> None:
    [source] = read("sources.yaml", GIT.encode()).sources
    assert source.git is not None
    assert (source.git.ref, source.git.path, source.git.history) == ("main", "deploy", "forward")
    assert (source.git.poll, source.stale) == (timedelta(minutes=1), timedelta(minutes=15))
    assert (source.type, source.describes) == ("git", "https://git.example.com/shop.git main deploy")


def test_several_sources_stand_in_one_file() -> None:
    text = GIT + "---\n" + HEAD.replace("shop", "here") + "directory: {path: /etc/holdfast}\n"
    text += "---\n" + HEAD.replace("shop", "team") + "database: {}\n"
    assert [source.type for source in read("sources.yaml", text.encode()).sources] == ["git", "directory", "database"]


@pytest.mark.parametrize(
    "address",
    [
        "git@example.com:shop.git",
        "https://user:password@git.example.com/shop.git",
        "https://token@git.example.com/shop.git",
        "ext::sh -c 'touch /tmp/x'",
        "--upload-pack=touch",
        "git://git.example.com/shop.git",
        "file://host/shop.git",
        "https://git.example.com/shop.git?x=1",
        "https://git.example.com:0x/shop.git",
    ],
)
def test_other_addresses_are_refused_and_not_shown_with_what_may_be_a_password(address: str) -> None:
    declared = read("sources.yaml", (HEAD + f'git: {{repository: "{address}"}}\n').encode())
    assert [finding.code for finding in declared.findings] == ["BAD_ADDRESS"]
    assert "password" not in str(declared.findings[0])


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("git: {repository: 'http://git.example.com/shop.git'}", "INSECURE"),
        ("git: {repository: 'ssh://git@git.example.com/shop.git'}", "KEY_MISSING"),
        ("git: {repository: 'https://x.example.com/s', ref: '../x'}", "BAD_REFERENCE"),
        ("git: {repository: 'https://x.example.com/s', ref: '--x'}", "BAD_REFERENCE"),
        ("git: {repository: 'https://x.example.com/s', path: '/etc'}", "BAD_DIRECTORY"),
        ("git: {repository: 'https://x.example.com/s', path: 'a/../b'}", "BAD_DIRECTORY"),
        ("git: {repository: 'https://x.example.com/s', verify: {}}", "VERIFY_KIND"),
        ("git: {repository: 'https://x.example.com/s', credentials: hunter2}", "WRONG_TYPE"),
        ("git: {repository: 'https://x.example.com/s', brunch: main}", "KEY_UNKNOWN"),
        ("directory: {path: /etc}\ndatabase: {}", "SOURCE_KIND"),
        ("stale: 5m", "SOURCE_KIND"),
        ("database: {}\nwebhook: {kind: github, secret: {secret: 'env:X'}}", "GIT_ONLY"),
    ],
)
def test_what_makes_no_sense_is_a_finding(said: str, code: str) -> None:
    assert codes(HEAD + said + "\n") == [code]


def test_a_name_is_declared_once_and_the_database_too() -> None:
    assert codes(GIT + "---\n" + GIT) == ["DECLARED_TWICE"]
    assert codes(HEAD + "database: {}\n---\n" + HEAD.replace("shop", "b") + "database: {}\n") == ["DECLARED_TWICE"]


def test_a_misspelt_kind_is_told_with_the_nearest() -> None:
    [finding] = read("sources.yaml", GIT.replace("Source", "Sorce").encode()).findings
    assert (finding.code, finding.nearest) == ("KIND_UNKNOWN", "Source")
