"""Agents: who they are by which certificate, what they serve and may do, and the invitations they join by. Every change
writes its line into the audit log and raises the roll's revision, in the same transaction: whoever keeps the rows in
memory asks for one number, and reads again what has changed since.

What counts is decided here, one change after the other: of two that burn one invitation at the same time one is
issued a certificate. A refusal is an answer and not an error, since what it has locked has to be committed.
"""

from __future__ import annotations

from reconciler.store.agents.authorities import authorities, issued_by, keep_authority, retire_authority
from reconciler.store.agents.changing import WORD
from reconciler.store.agents.contact import heard, present, pulse
from reconciler.store.agents.identities import GRACE, KEPT, invite, join, misused, renew, used
from reconciler.store.agents.operators import bind, declare_dead, drain, grant, hand_over, lock, remove, unbind, unlock
from reconciler.store.agents.reading import (
    all,  # noqa: A004 - as each room of the store calls it
    bindings,
    by_name,
    certificates,
    changed,
    open_invites,
    revision,
)
from reconciler.store.agents.records import (
    SPEAKING,
    Agent,
    Authority,
    Bound,
    Certificate,
    Changed,
    Heard,
    Invite,
    Issue,
    Issued,
    Keys,
    NameInUse,
    NoAgent,
    Refusal,
    Refused,
    TargetTaken,
    Wanted,
)
from reconciler.store.agents.targets import fenced_off

__all__ = [
    "GRACE",
    "KEPT",
    "SPEAKING",
    "WORD",
    "Agent",
    "Authority",
    "Bound",
    "Certificate",
    "Changed",
    "Heard",
    "Invite",
    "Issue",
    "Issued",
    "Keys",
    "NameInUse",
    "NoAgent",
    "Refusal",
    "Refused",
    "TargetTaken",
    "Wanted",
    "all",
    "authorities",
    "bind",
    "bindings",
    "by_name",
    "certificates",
    "changed",
    "declare_dead",
    "drain",
    "fenced_off",
    "grant",
    "hand_over",
    "heard",
    "invite",
    "issued_by",
    "join",
    "keep_authority",
    "lock",
    "misused",
    "open_invites",
    "present",
    "pulse",
    "remove",
    "renew",
    "retire_authority",
    "revision",
    "unbind",
    "unlock",
    "used",
]
