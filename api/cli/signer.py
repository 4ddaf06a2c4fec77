"""Commands of the signer. They need neither a daemon nor a store, and run as the signer's own user."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

from api.cli import show
from api.problem import FAILED, OK, Problem
from api.settings import Settings
from stickers.signature import PublicKey


def init(settings: Settings, given: Namespace) -> int:
    from api.signer.place import Place

    place = Place(Path(given.directory))
    return _made(given, place.init(), f"in {place.keys}; write what may be signed into {place.policy}")


def rotate(settings: Settings, given: Namespace) -> int:
    from api.signer.place import Place

    place = Place(Path(given.directory))
    if given.finish:
        return _made(given, place.finish(), "signs from the next start of the signer on; the former one is gone")
    return _made(given, place.rotate(), "is to follow: start the signer again, tell the agents, then rotate --finish")


def _made(given: Namespace, key: PublicKey, what: str) -> int:
    fingerprint = hashlib.sha256(key.public).hexdigest()
    if given.output == "json":
        show.as_json({"id": key.id, "public": key.public.hex(), "fingerprint": fingerprint})
    else:
        print(f"key {key.id} {what}\nfingerprint {fingerprint}")
    return OK


def run(settings: Settings, given: Namespace) -> int:
    import anyio

    from api import logging
    from api.signer import process
    from stickers.redaction import Redactor

    logging.configure(settings, Redactor())
    at = Path(given.socket) if given.socket else None
    anyio.run(process.run, Path(given.directory), at, given.group)
    return OK


def check(settings: Settings, given: Namespace) -> int:
    """Every finding of the policy; with a verb, what it would say of such a task."""
    from api.signer import policy
    from api.signer.place import Place

    path = Path(given.policy) if given.policy else Place(Path(given.directory)).policy
    said = policy.read(path)
    if given.verb is None:
        declared = "nothing is signed that is not declared" if said.documents else "it reads no documents"
        print(f"{path}: {len(said.rules)} rules, {declared}")
        return OK
    return _tried(said, given)


def _tried(said: object, given: Namespace) -> int:
    from api.signer.judge import Refusal, by_rules
    from api.signer.policy import Policy

    assert isinstance(said, Policy)
    answer = by_rules(said, _task(given), given.repository)
    refused = isinstance(answer, Refusal)
    if given.output == "json":
        show.as_json({"lets": not refused, **({"reason": answer.sentence} if refused else {"rule": answer.rule})})  # type: ignore[union-attr]
    else:
        print(f"no: {answer.sentence}" if isinstance(answer, Refusal) else f"yes, by rule {answer.rule}")
    return FAILED if refused else OK


def _task(given: Namespace):  # type: ignore[no-untyped-def]  # the protocol is loaded where it is needed
    from drivers.agent.protocol import Task, Verb
    from stickers import digest
    from stickers.names import ActionKey, AgentName, EnvironmentId, TargetId

    if given.verb not in set(Verb):
        raise Problem("BAD_ARGUMENT", f"{given.verb!r} is no verb; expected one of {', '.join(Verb)}")
    return Task(
        id="",
        key=ActionKey(""),
        agent=AgentName(given.agent),
        generation=0,
        epoch="",
        target=TargetId(_qualified(given.target)),
        environment=EnvironmentId(_qualified(given.environment)),
        verb=Verb(given.verb),
        content=digest.of_bytes(b""),
        fence=0,
        not_after=0,
        within=timedelta(0),
    )


def _qualified(name: str) -> str:
    return name if "/" in name else f"default/{name}"


def log(settings: Settings, given: Namespace) -> int:
    from api.signer import ledger
    from api.signer.place import Place

    directory = Place(Path(given.directory)).ledger
    if given.verify:
        return _verified(directory, given)
    found = list(ledger.lines(directory))[-given.limit :]
    if given.output == "json":
        show.as_json({"lines": found})
        return OK
    rows = (
        (
            line.get("at", ""),
            line["outcome"],
            line.get("verb", ""),
            line.get("target", ""),
            line.get("agent", ""),
            line.get("rule") or show.brief(line.get("reason", "")),
        )
        for line in found
    )
    show.columns(("at", "outcome", "verb", "target", "agent", "why"), rows)
    return OK


def _verified(directory: Path, given: Namespace) -> int:
    from api.signer import ledger

    try:
        count, state = ledger.verified(directory)
    except ledger.Broken as error:
        print(f"broken: {error}")
        return FAILED
    if given.output == "json":
        show.as_json({"lines": count, "sequence": state.sequence, "head": state.head})
    else:
        print(f"whole: {count} lines, {state.sequence} tasks signed, the last line is {state.head}")
    return OK
