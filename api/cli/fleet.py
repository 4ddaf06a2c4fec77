"""Commands about environments and targets: each asks the daemon and shows the answer."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from api.cli import show
from api.cli.follow import follow
from api.cli.kept import followed
from api.client import ask, events
from api.problem import CHANGES, OK
from api.settings import Settings


def status(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "status", environment=given.environment)
    if given.output == "json":
        show.as_json(answer)
    elif given.environment:
        _environment(answer["environments"][0])
    elif answer["environments"]:
        _environments(answer)
    else:
        print("No environment is declared yet. `holdfast init` writes a starter tree; then `holdfast run`.")
    return OK


def _environments(answer: dict[str, Any]) -> None:
    show.columns(
        ("environment", "release", "targets", "placements", "state", "looked"),
        (
            (
                show.clean(row["id"]),
                show.clean(row["release"]),
                row["targets"],
                show.counts(row["verdicts"]) or "not looked at yet",
                _state(row),
                show.ago(row["looked_at"]),
            )
            for row in answer["environments"]
        ),
    )
    if counts := answer.get("agents"):
        print(f"\nagents: {', '.join(f'{number} {word}' for word, number in sorted(counts.items()))}")
    if problem := answer["source"].get("problem"):
        print(show.paint(f"\nThe documents are not read: {show.clean(problem)}", "33"))
        print("The last accepted state stays in force.")


def _state(row: dict[str, Any]) -> str:
    if row["suspended"]:
        return show.paint(f"suspended: {show.clean(row['suspended']['reason'])}", "33")
    if job := row["job"]:
        return show.paint(f"{job['state']} {show.clean(job['id'])}", "36")
    ready = next((item for item in row["conditions"] if item["type"] == "Ready"), None)
    return show.brief(ready["message"]) if ready else ""


def _environment(row: dict[str, Any]) -> None:
    print(f"{show.clean(row['id'])}: {show.clean(row['release'])}, generation {row['generation']}")
    for condition in row["conditions"]:
        print(f"  {condition['type']:<12} {condition['status']:<8} {show.clean(condition['message'])}")
    print()
    show.columns(
        ("target", "component", "verdict", "sticker", "release", "since", "reason"),
        (
            (
                show.clean(cell["target"]),
                show.clean(cell["component"]),
                show.verdict(cell["verdict"]),
                cell["trust"],
                show.clean(cell["release"]),
                show.ago(cell["since"]),
                show.clean(cell["reason"]),
            )
            for cell in row["placements"]
        ),
    )


def drift(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "drift", environment=given.environment)
    if given.output == "json":
        show.as_json(answer)
    elif given.output in ("csv", "html"):
        print(_report(answer["placements"], given.output), end="")
    elif not answer["placements"]:
        print("Everything is in sync.")
    else:
        for cell in answer["placements"]:
            _drifted(cell)
    return CHANGES if answer["placements"] else OK


def _report(placements: list[dict[str, Any]], format: str) -> str:
    from api.pages import report  # only where one is made

    if format == "csv":
        return report.as_csv(placements)
    return report.as_html(placements, now=datetime.now(UTC))


def _drifted(cell: dict[str, Any]) -> None:
    where = f"{show.clean(cell['environment'])}  {show.clean(cell['target'])}  {show.clean(cell['component'])}"
    print(f"{show.verdict(cell['verdict'])}  {where}  for {show.ago(cell['since'])}, sticker {cell['trust']}")
    print(f"    {show.clean(cell['rule'])}{': ' + show.clean(cell['reason']) if cell['reason'] else ''}")
    show.bullet(cell["differences"])
    if cell["blocked"]:
        print(show.paint(f"    blocked: {show.clean(cell['blocked'])}", "33"))


def plan(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "plan", environment=given.environment)
    changes = any(answer["waves"])
    if given.output == "json":
        show.as_json(answer)
    else:
        _plan(answer)
    return CHANGES if changes else OK


def _plan(answer: dict[str, Any]) -> None:
    if not answer["waves"]:
        print("Nothing to do as it is declared; see what is blocked." if answer["blocked"] else "Nothing to do.")
    for note in answer["notes"]:
        print(show.paint(show.clean(note), "33"))
    for number, wave in enumerate(answer["waves"], 1):
        print(show.paint(f"wave {number} of {len(answer['waves'])}", "1"))
        for change in wave:
            print(
                f"  {show.clean(change['target'])}  {show.clean(change['component'])}: {show.clean(change['summary'])}"
            )
            show.bullet(change["differences"], 6)
    for item in answer["blocked"]:
        until = f", until {show.moment(item['until'])}" if item["until"] else ""
        print(
            show.paint(
                f"blocked  {show.clean(item['placement'])}: {show.clean(item['reason'])}{until} [{item['code']}]", "33"
            )
        )
    if answer["waves"]:
        digits = show.short(answer["hash"])
        print(f"\nplan {digits}: holdfast sync {show.clean(answer['environment'])} --plan-hash {digits}")
    if answer["removal_hash"]:
        print(f"removal {answer['removal_hash']}: add --confirm-removal {answer['removal_hash']} to allow it")


def sync(settings: Settings, given: Namespace) -> int:
    words = {"plan_hash": given.plan_hash, "confirm_removal": given.confirm_removal}
    return _job(settings, given, "sync", environment=given.environment, **words)


def rollback(settings: Settings, given: Namespace) -> int:
    return _job(settings, given, "rollback", environment=given.environment, reason=given.reason)


def adopt(settings: Settings, given: Namespace) -> int:
    return _job(settings, given, "adopt", environment=given.environment, targets=given.targets)


def _job(settings: Settings, given: Namespace, command: str, **arguments: Any) -> int:
    return follow(followed(settings, command, arguments | {"wait": not given.no_wait}), given.output)


def suspend(settings: Settings, given: Namespace) -> int:
    words = {"reason": given.reason, "until": given.until}
    return _done(given, ask(settings, "suspend", environment=given.environment, **words))


def resume(settings: Settings, given: Namespace) -> int:
    return _done(given, ask(settings, "resume", environment=given.environment, lift_refused=given.lift_refused))


def _done(given: Namespace, answer: dict[str, Any]) -> int:
    if given.output == "json":
        show.as_json(answer)
    else:
        print(show.clean(answer["message"]))
    return OK


def why(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "why", target=given.target)
    if given.output == "json":
        show.as_json(answer)
        return OK
    print(f"{show.clean(answer['target'])}  {answer['driver']}, environment {show.clean(answer['environment'])}")
    if answer["suspended"]:
        print(show.paint(f"  suspended: {show.clean(answer['suspended']['reason'])}", "33"))
    for cell in answer["placements"]:
        _why(cell)
    return OK


def _why(cell: dict[str, Any]) -> None:
    print(f"\n  {show.clean(cell['component'])}: {show.verdict(cell['verdict'])}, since {show.moment(cell['since'])}")
    rows = (
        ("rule", cell["rule"]),
        ("reason", cell["reason"]),
        ("declared", cell["declared"]),
        ("wanted", cell["wanted"] if cell["wanted"] != cell["declared"] else None),
        ("sticker", cell["sticker"]),
        ("running", cell["running"]),
        ("last good", cell["last_good"]),
        ("refused", cell["refused"]),
        ("blocked", cell["blocked"]),
        ("evidence", cell["evidence"]),
        ("decided", cell["decided"]),
        ("next look", show.ago(cell["next_look"])),
    )
    for name, text in rows:
        if text:
            print(f"    {name:<10} {show.clean(text)}")
    show.bullet(cell["differences"], 15)


def history(settings: Settings, given: Namespace) -> int:
    words = {"at": given.at, "target": given.target, "before": given.before, "limit": given.limit}
    answer = ask(settings, "history", environment=given.environment, **words)
    if given.output == "json":
        show.as_json(answer)
    elif "placements" in answer:
        print(f"{show.clean(answer.get('target', answer['environment']))}{_at(answer)}")
        _stood(answer["placements"])
    else:
        _decided(answer["entries"])
    if given.output != "json" and answer.get("next"):
        print(f"\nmore: the same command with --before {answer['next']}")
    return OK


def _at(answer: dict[str, Any]) -> str:
    return f", as it was known at {show.moment(answer['at'])}" if "at" in answer else ""


def _stood(placements: list[dict[str, Any]]) -> None:
    show.columns(
        ("since", "until", "target", "component", "verdict", "sticker", "release", "reason"),
        (
            (
                show.moment(cell["since"]),
                show.moment(cell["until"]),
                show.clean(cell["target"]),
                show.clean(cell["component"]),
                show.verdict(cell["verdict"]),
                cell["trust"],
                show.clean(cell["release"]),
                show.clean(cell["reason"]),
            )
            for cell in placements
        ),
    )


def _decided(entries: list[dict[str, Any]]) -> None:
    show.columns(
        ("since", "until", "turns", "what"),
        (
            (show.moment(row["since"]), show.moment(row["until"]), row["count"], show.clean(row["summary"]))
            for row in entries
        ),
    )


def logs(settings: Settings, given: Namespace) -> int:
    words = {"target": given.target, "component": given.component, "tail": given.tail, "follow": given.follow}
    for event in events(settings, "logs", words):
        if "line" in event:
            print(show.clean(event["line"]), flush=True)
    return OK


def evidence(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "evidence", id=given.id)
    show.as_json(answer)
    return OK
