"""A job that is followed through lost connections, at a server that cuts them in the middle of a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from api import client
from api.cli.follow import follow
from api.cli.kept import followed
from api.problem import Problem
from api.settings import Settings

JOB = "default/prod:7"
CUT = "cut"
RESULT: dict[str, Any] = {"result": {"id": JOB, "ok": True, "message": f"{JOB} completed"}}


def job(state: str) -> dict[str, Any]:
    return {"event": {"kind": "job", "job": JOB, "state": state, "detail": ""}}


def task(state: str) -> dict[str, Any]:
    about = {"task": f"{JOB}/1", "target": "default/prod-1", "component": "api", "detail": "", "done": 0, "total": 1}
    return {"event": {"kind": "task", "state": state, **about}}


def progress(second: int) -> dict[str, Any]:
    about = {"task": f"{JOB}/1", "component": "api", "step": "pull", "message": "still pulling"}
    return {"event": {"kind": "progress", "at": f"2026-11-21T12:00:{second:02}+00:00", **about}}


Answer = list[dict[str, Any] | str]


@contextmanager
def serving(*answers: Answer) -> Iterator[tuple[Settings, list[str]]]:
    """Answers one request after the other with these lines; `CUT` ends the connection in the middle of one."""
    left, asked = list(answers), list[str]()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked.append(f"{self.path} {body.decode()}")
            self.send_response(200)
            self.end_headers()
            for line in left.pop(0) if left else [CUT]:
                self.wfile.write(b'{"event": {"ki' if isinstance(line, str) else json.dumps(line).encode() + b"\n")
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Settings(server=f"http://127.0.0.1:{server.server_port}", token="x"), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_follow_is_taken_up_again_and_nothing_is_told_twice(capsys: pytest.CaptureFixture[str]) -> None:
    first: Answer = [job("running"), task("dispatched"), progress(1), progress(2), CUT]
    again: Answer = [job("running"), progress(1), progress(2), progress(3), task("succeeded"), job("completed"), RESULT]
    with serving(first, again) as (settings, asked):
        assert follow(followed(settings, "sync", {"environment": "prod", "wait": True}), "text") == 0
    told = capsys.readouterr().out
    assert told.count("still pulling") == 3
    assert told.count("running") == 1
    assert "connection lost" in told
    assert f"taking {JOB} up again" in told
    assert [each.split()[0] for each in asked] == ["/v1/sync", "/v1/follow"]  # nothing is asked for a second time


def test_a_job_that_ended_meanwhile_is_told_with_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    failed = {"result": RESULT["result"] | {"ok": False, "message": f"{JOB} failed"}}
    with serving([job("running"), CUT], [CUT], [job("failed"), failed]) as (settings, _):
        assert follow(followed(settings, "follow", {"job": JOB}), "text") == 1
    told = capsys.readouterr().out
    assert told.count("connection lost") == 1
    assert f"{JOB} failed" in told


def test_what_stays_lost_is_given_up_with_how_to_go_on() -> None:
    with serving([job("running"), CUT]) as (settings, asked):
        with pytest.raises(Problem, match=rf"holdfast job show {JOB} -f") as lost:
            list(followed(settings, "follow", {"job": JOB}, patience=0.5))
        assert lost.value.code == client.LOST
        assert len(asked) > 1


def test_before_the_job_is_known_a_lost_connection_is_a_problem() -> None:
    with serving([CUT]) as (settings, asked):
        with pytest.raises(Problem) as lost:
            list(followed(settings, "sync", {"environment": "prod", "wait": True}))
        assert (lost.value.code, len(asked)) == (client.LOST, 3)
