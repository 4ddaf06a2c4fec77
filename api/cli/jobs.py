"""Commands about jobs."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from api.cli import show
from api.cli.follow import follow
from api.cli.kept import followed
from api.client import ask
from api.problem import FAILED, OK
from api.settings import Settings


def index(settings: Settings, given: Namespace) -> int:
    words = {"environment": given.environment, "state": given.in_state, "before": given.before, "limit": given.limit}
    answer = ask(settings, "jobs", **words)
    if given.output == "json":
        show.as_json(answer)
        return OK
    show.columns(
        ("job", "kind", "state", "began", "ended", "by", "reason"),
        (
            (
                show.clean(job["id"]),
                job["kind"],
                job["state"],
                show.moment(job["created_at"]),
                show.moment(job["ended_at"]),
                show.clean(job["requested_by"]),
                show.clean(job["reason"]),
            )
            for job in answer["jobs"]
        ),
    )
    if answer["next"]:
        print(f"\nmore: holdfast job list --before {answer['next']}")
    return OK


def show_one(settings: Settings, given: Namespace) -> int:
    if given.follow:
        return follow(followed(settings, "follow", {"job": given.job}), given.output)
    answer = ask(settings, "job", job=given.job)
    if given.output == "json":
        show.as_json(answer)
    else:
        _job(answer)
    return FAILED if answer["ok"] is False else OK


def _job(job: dict[str, Any]) -> None:
    print(f"{show.clean(job['id'])}  {job['kind']}  {job['state']}")
    print(f"  asked for by {show.clean(job['requested_by'])}: {show.clean(job['reason'])}")
    print(f"  began {show.moment(job['created_at'])}, ended {show.moment(job['ended_at']) or 'not yet'}")
    if job["message"]:
        print(show.paint(f"  {show.clean(job['message'])}", "33"))
    for task in job["tasks"]:
        where = f"{show.clean(task['target'])}  {show.clean(task['components'])}"
        print(f"  {task['direction']} wave {task['wave']}  {where}  {task['state']}, attempt {task['attempt']}")
        if task["detail"]:
            print(f"      {show.clean(task['detail'])}")
        for line in task["progress"]:
            print(
                show.paint(
                    f"      {show.moment(line['at'])}  {show.clean(line['step'])}: {show.clean(line['message'])}", "2"
                )
            )
        show.bullet((f"evidence {id}" for id in task["evidence"]), 6)


def cancel(settings: Settings, given: Namespace) -> int:
    return _ask_for(settings, given, "cancel")


def pause(settings: Settings, given: Namespace) -> int:
    return _ask_for(settings, given, "pause")


def resume(settings: Settings, given: Namespace) -> int:
    return _ask_for(settings, given, "continue")


def _ask_for(settings: Settings, given: Namespace, what: str) -> int:
    answer = ask(settings, "request", job=given.job, what=what)
    if given.output == "json":
        show.as_json(answer)
    else:
        print(show.clean(answer["message"]))
    return OK
