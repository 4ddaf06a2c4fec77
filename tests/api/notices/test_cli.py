"""`holdfast notices test`: each channel hears one message, and who did not is said with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from anyio import to_thread

from api.cli.main import main
from tests.api.notices import receivers

FILE = """\
apiVersion: holdfast/v1
kind: Notices
channels:
  - name: pager
    webhook: {{url: "http://127.0.0.1:{webhook}/", secret: {{secret: "env:HOOK_SECRET"}}}}
    only: [failed]
  - {{name: mail, mail: {{host: 127.0.0.1, port: {mail}, security: none, from: h@example.com, to: [o@example.com]}}}}
"""


async def asked(*words: str) -> int:
    return await to_thread.run_sync(main, ["notices", "test", *words])


async def test_each_channel_hears_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with receivers.http() as pager, receivers.mail() as mail:
        path = tmp_path / "notices.yaml"
        path.write_text(FILE.format(webhook=pager.port, mail=mail.port))
        monkeypatch.setenv("HOLDFAST_NOTICES", str(path))
        monkeypatch.setenv("HOOK_SECRET", "x")
        assert await asked() == 0
        assert capsys.readouterr().out == "pager: heard\nmail: heard\n"
        [(headers, body)] = pager.requests
        assert json.loads(body)["kind"] == "test"
        assert headers["holdfast-signature"].startswith("sha256=")
        assert "a test: whoever reads this" in mail.letters[0]
        pager.status = 500
        assert await asked("pager", "--output", "json") == 1
        [row] = json.loads(capsys.readouterr().out)["channels"]
        assert row == {"channel": "pager", "heard": False, "reason": "the receiver answered 500"}
        assert len(mail.letters) == 1


def test_a_channel_that_is_not_declared_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notices.yaml"
    path.write_text(FILE.format(webhook=1, mail=1))
    monkeypatch.setenv("HOLDFAST_NOTICES", str(path))
    assert main(["notices", "test", "pagre"]) == 2
    assert "declared are pager, mail" in capsys.readouterr().err


def test_without_a_file_of_notices_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOLDFAST_NOTICES", raising=False)
    assert main(["notices", "test"]) == 2
    assert "HOLDFAST_NOTICES" in capsys.readouterr().err
