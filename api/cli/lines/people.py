"""People and machines, their rights, and what they did."""

from __future__ import annotations

from typing import Final

from api.cli.lines.line import LIMIT, Command, option
from api.problem import ERROR, FAILED, OK

HOLDER: Final = option("name", metavar="NAME", help="a user, or group:NAME")
PLACE: Final = option("--in", dest="place", metavar="PLACE", help="environment, project/* or * (default *: everywhere)")
PASSWORD: Final = option("--password-file", metavar="FILE", help="its first line is the password; - is standard input")
GRANTABLE: Final = (
    "viewer     read\n"
    "developer  read, request\n"
    "operator   read, request, deploy, rollback, freeze\n"
    "approver   read, approve\n"
    "auditor    read, audit.read\n"
    "admin      read, admin, token.admin, agent.admin, target.edit, policy.edit, audit.read"
)

COMMANDS: Final = (
    Command(
        ("login",),
        "Keep a token for the server that HOLDFAST_SERVER names.",
        "api.cli.login:login",
        (
            option("server", nargs="?", metavar="URL", help="the server (HOLDFAST_SERVER)"),
            option("--user", metavar="NAME", help="ask for the password, and have the server make a token"),
        ),
        ("holdfast login https://holdfast.example.com", "holdfast login --user ada"),
        ((OK, "the token is kept"), (ERROR, "the server does not know it, or was not reached")),
        detail="Without --user the token is asked for, or read from what is piped in. It is kept in your\n"
        "configuration directory, for you alone to read.",
    ),
    Command(
        ("logout",),
        "Forget the token for a server.",
        "api.cli.login:logout",
        (option("server", nargs="?", metavar="URL", help="the server (HOLDFAST_SERVER)"),),
        ("holdfast logout",),
    ),
    Command(
        ("whoami",),
        "Show who you are here, and what you may do.",
        "api.cli.people:whoami",
        (),
        ("holdfast whoami", "holdfast whoami --output json"),
    ),
    Command(
        ("user", "add"),
        "Add a person who logs in with a password.",
        "api.cli.people:add",
        (
            option("name", metavar="NAME"),
            option("--grant", action="append", default=[], metavar="ROLE", help="role or verb; may be given again"),
            PLACE,
            PASSWORD,
        ),
        (
            "holdfast user add ada --grant operator --in shop/staging",
            "holdfast user add joe --grant viewer --password-file joe.txt",
        ),
        detail="Without --password-file the password is random and shown once.\n\n" + GRANTABLE,
    ),
    Command(
        ("user", "list"),
        "List everybody, and the groups that anything is granted to.",
        "api.cli.people:index",
        (),
        ("holdfast user list", "holdfast user list --output json"),
    ),
    Command(
        ("user", "passwd"),
        "Give a person another password; they are logged out everywhere.",
        "api.cli.people:passwd",
        (option("name", metavar="NAME"), PASSWORD),
        ("holdfast user passwd ada", "holdfast user passwd ada --password-file ada.txt"),
        detail="Without --password-file the password is random and shown once.",
    ),
    Command(
        ("user", "grant"),
        "Grant a role or a verb to a person, or to a group of the OpenID Connect provider.",
        "api.cli.people:grant",
        (HOLDER, option("what", metavar="ROLE", help="role or verb"), PLACE),
        ("holdfast user grant ada operator --in shop/prod", "holdfast user grant group:platform viewer"),
        detail="Whoever it is granted to logs in anew.\n\n" + GRANTABLE,
    ),
    Command(
        ("user", "revoke"),
        "Take a grant back.",
        "api.cli.people:revoke",
        (HOLDER, option("what", metavar="ROLE", help="role or verb"), PLACE),
        ("holdfast user revoke ada operator --in shop/prod",),
    ),
    Command(
        ("user", "disable"),
        "Let a person in no more: logins, sessions and tokens of theirs end.",
        "api.cli.people:disable",
        (option("name", metavar="NAME"),),
        ("holdfast user disable ada",),
    ),
    Command(
        ("user", "enable"),
        "Let a disabled person log in again.",
        "api.cli.people:enable",
        (option("name", metavar="NAME"),),
        ("holdfast user enable ada",),
    ),
    Command(
        ("token", "create"),
        "Make a token for a machine; it is shown once.",
        "api.cli.people:token_create",
        (
            option("name", metavar="NAME", help="what it is for, such as ci"),
            option("scopes", nargs="+", metavar="ROLE", help="roles or verbs"),
            option("--in", dest="places", action="append", default=[], metavar="PLACE", help="may be given again"),
            option("--days", type=int, default=90, metavar="N", help="how long it lives (default 90, at most 366)"),
        ),
        ("holdfast token create ci request read --in shop/staging", "holdfast token create metrics viewer --days 366"),
        detail="A token does no more than who makes it, and never approves, nor administers people or tokens.\n\n"
        + GRANTABLE,
    ),
    Command(
        ("token", "list"),
        "List tokens, newest first, with their last use.",
        "api.cli.people:token_index",
        (),
        ("holdfast token list",),
    ),
    Command(
        ("token", "revoke"),
        "End a token, at once and for ever.",
        "api.cli.people:token_revoke",
        (option("id", metavar="ID", help="as `token list` shows it; the middle part of the token"),),
        ("holdfast token revoke 4f1d0c22ab90",),
    ),
    Command(
        ("audit", "list"),
        "Show who changed what, newest first.",
        "api.cli.audit:index",
        (
            option("environment", nargs="?", metavar="ENV", help="name, or project/name; everything when left out"),
            option("--before", metavar="CURSOR", help="the next page, as printed"),
            LIMIT,
        ),
        ("holdfast audit list", "holdfast audit list staging --limit 50"),
    ),
    Command(
        ("audit", "verify"),
        "Verify the audit log; name the first entry of each chain that is not as it was written.",
        "api.cli.audit:verify",
        (
            option("environment", nargs="?", metavar="ENV", help="name, or project/name; everything when left out"),
            option("--against", metavar="FILE", help="what `audit export` wrote: finds an end that was cut off too"),
        ),
        ("holdfast audit verify", "holdfast audit verify --against audit.jsonl"),
        ((OK, "everything is as it was written"), (FAILED, "something is not; says where"), (ERROR, "bad input")),
        detail="Without --against, entries that were cut off the end of a chain cannot be missed.",
    ),
    Command(
        ("audit", "export"),
        "Write the audit log as JSON lines, each chain with a signed checkpoint; keep it elsewhere.",
        "api.cli.audit:export",
        (
            option("environment", nargs="?", metavar="ENV", help="name, or project/name; everything when left out"),
            option("--checkpoints", action="store_true", help="only the checkpoints, without the entries"),
        ),
        ("holdfast audit export > audit.jsonl", "holdfast audit export --checkpoints > checkpoints.jsonl"),
    ),
)
