"""Roles: named sets of verbs. What is granted to somebody is a role or a single verb, at a place.

No role holds everything: whoever administers people cannot approve, and whoever approves cannot deploy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from api.people.principal import EVERYWHERE, Grant, Principal, Verb
from api.problem import Problem
from reconciler.store.people import Granted
from stickers import names

ROLES: Final[Mapping[str, frozenset[Verb]]] = {
    "viewer": frozenset({Verb.READ}),
    "developer": frozenset({Verb.READ, Verb.REQUEST}),
    "operator": frozenset({Verb.READ, Verb.REQUEST, Verb.DEPLOY, Verb.ROLLBACK, Verb.FREEZE}),
    "approver": frozenset({Verb.READ, Verb.APPROVE}),
    "admin": frozenset(
        {Verb.READ, Verb.ADMIN, Verb.TOKEN_ADMIN, Verb.AGENT_ADMIN, Verb.TARGET_EDIT, Verb.POLICY_EDIT, Verb.AUDIT_READ}
    ),
    "auditor": frozenset({Verb.READ, Verb.AUDIT_READ}),
}
FIRST: Final = (Granted("admin", EVERYWHERE), Granted("operator", EVERYWHERE))  # what the first admin may


def grants(granted: Iterable[Granted]) -> tuple[Grant, ...]:
    """What the words allow. A word that this version does not know allows nothing."""
    return tuple(Grant(verb=verb, where=each.place) for each in granted for verb in sorted(_verbs(each.what)))


def _verbs(what: str) -> frozenset[Verb]:
    if what in ROLES:
        return ROLES[what]
    return frozenset({Verb(what)}) if what in list(Verb) else frozenset()


def granted(what: str, place: str) -> Granted:
    """A role or verb and a place as a person wrote them; `BAD_ARGUMENT` says what there is."""
    if not _verbs(what):
        known = f"roles are {', '.join(ROLES)}; verbs are {', '.join(Verb)}"
        raise Problem("BAD_ARGUMENT", f"{what[:40]!r} is neither a role nor a verb; {known}")
    return Granted(what, checked_place(place))


def checked_place(text: str) -> str:
    """`*`, `project/*` or `project/name`; a bare name is of the default project."""
    if text == EVERYWHERE:
        return text
    project, slash, name = text.rpartition("/")
    try:
        of = names.name(project) if slash else names.DEFAULT_PROJECT
        return f"{of}/{name}" if name == "*" else f"{of}/{names.name(name)}"
    except names.InvalidName:
        raise Problem(
            "BAD_ARGUMENT", f"{text[:80]!r} is no place; expected an environment, project/* or * for everywhere"
        ) from None


def within(grant: Grant, others: Iterable[Grant]) -> bool:
    """Whether whoever has the others has this one too."""
    return any(
        other.verb is grant.verb
        and (
            other.where in (EVERYWHERE, grant.where)
            or (other.where.endswith("/*") and _starts(grant.where, other.where))
        )
        for other in others
    )


def _starts(place: str, project: str) -> bool:
    return place != EVERYWHERE and place.startswith(project[:-1])


def described(principal: Principal) -> dict[str, Any]:
    """A principal as they are told of themselves."""
    places: dict[str, list[str]] = {}
    for grant in principal.grants:
        if grant.verb not in places.setdefault(grant.where, []):
            places[grant.where].append(grant.verb)
    return {"actor": principal.actor, "natural": principal.natural, "grants": places}
