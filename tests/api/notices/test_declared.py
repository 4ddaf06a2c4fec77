"""The file that says who is told what."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.notices.declared import Kind, read
from api.problem import Problem

WHOLE = """\
apiVersion: holdfast/v1
kind: Notices
after: {drift: 30s}
channels:
- name: ops
  webhook: {url: "https://ops.example/hook", secret: {secret: "env:HOOK"}}
  only: [failed, rolled-back]
- name: chat
  slack: {url: {secret: "env:SLACK"}}
  environments: [default/prod]
- name: post
  mail: {host: mail.example, from: holdfast@example.org, to: [a@example.org], user: x, password: {secret: "env:P"}}
"""


def _file(tmp_path: Path, text: str) -> Path:
    (tmp_path / "notices.yaml").write_text(text)
    return tmp_path / "notices.yaml"


def test_channels_take_what_they_were_declared_for(tmp_path: Path) -> None:
    ops, chat, post = read(_file(tmp_path, WHOLE)).channels
    assert (ops.takes(Kind.FAILED, "default/x"), ops.takes(Kind.DRIFT, "default/x")) == (True, False)
    assert (chat.takes(Kind.DRIFT, "default/prod"), chat.takes(Kind.DRIFT, "default/x")) == (True, False)
    assert post.takes(Kind.UNKNOWN, "default/x")


@pytest.mark.parametrize(
    ("was", "is_now", "said"),
    [
        ("kind: Notices", "kind: Notice", "notices.yaml:2:"),
        ("only: [failed,", "only: [faild,", "only[0]"),
        ('  slack: {url: {secret: "env:SLACK"}}\n', "", "exactly one of"),
        ("https://ops.example/hook", "https://me:pw@ops.example/hook", "without a name or a password"),
        ("user: x, ", "", "belong together"),
        ("host: mail.example,", "host: mail.example, security: none,", "only to localhost"),
        ("name: chat", "name: ops", "a name of its own"),
        ("30s", "soon", "after.drift"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, was: str, is_now: str, said: str) -> None:
    assert was in WHOLE
    with pytest.raises(Problem) as found:
        read(_file(tmp_path, WHOLE.replace(was, is_now)))
    assert found.value.code == "NOTICES_INVALID"
    assert said in found.value.detail
    assert "pw" not in found.value.detail


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"notices\.yaml cannot be read"):
        read(tmp_path / "notices.yaml")
