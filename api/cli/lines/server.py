"""The server: how it is started, set, fed and kept."""

from __future__ import annotations

from typing import Final

from api.cli.lines.line import Command, option
from api.problem import ERROR, FAILED, OK
from api.settings import ROLES

SOURCE: Final = option("source", metavar="SOURCE", help="its name")

COMMANDS: Final = (
    Command(
        ("settings",),
        "Show every setting, its value, and where that comes from; secrets are masked.",
        "api.cli.settings:settings",
        (),
        (
            "holdfast settings",
            "holdfast settings --settings /etc/holdfast/settings.yaml --output json",
            "holdfast settings --output yaml > settings.yaml",
        ),
        ((OK, "shown"), (ERROR, "something that is set cannot be meant; says where, and what would be right")),
        detail="Settings stand in one YAML file (--settings, HOLDFAST_SETTINGS), in HOLDFAST_* of the environment, or\n"
        "on the command line, each winning over the one before. yaml is a commented file to begin with; markdown is\n"
        "the reference.",
        formats=("text", "json", "yaml", "markdown"),
    ),
    Command(
        ("drivers",),
        "List the kinds of runtimes, their powers, and what each was verified against.",
        "api.cli.drivers:index",
        (),
        ("holdfast drivers", "holdfast drivers --output json"),
        ((OK, "listed"), (FAILED, "listed, and one that is installed cannot be used; says why"), (ERROR, "bad input")),
        detail="changes     what a runtime changes at once: one component, or the target as a whole\n"
        "events      tells when something happened, so that it is looked at then\n"
        "logs        `holdfast logs` works\n"
        "adopts      `holdfast adopt` works\n"
        "doctor      `holdfast doctor` examines its targets\n\n"
        "Verified against `real`: its tests run against the runtime itself. `contract`: against a server written\n"
        "from the published API of the runtime.",
    ),
    Command(
        ("doctor",),
        "Examine targets: what is missing there, and how to get it. Changes nothing.",
        "api.cli.doctor:examine",
        (option("target", nargs="?", metavar="TARGET", help="name, or project/name; all when left out"),),
        ("holdfast doctor", "holdfast doctor web-1", "holdfast doctor --output json"),
        (
            (OK, "nothing is missing; there may be warnings"),
            (FAILED, "something is missing or could not be seen; each says what helps"),
            (ERROR, "no such target, or the documents have findings"),
        ),
        detail="Reads the documents and needs no daemon. All targets are examined at once, each for at most 25 s:\n"
        "whether they are reached, versions, permissions, room, clock, artifacts and secrets. Without TARGET, this\n"
        "host's own keys, state and room too. Secrets are resolved as you and in your environment, not the daemon's.",
    ),
    Command(
        ("run",),
        "Run the daemon: hold every environment to its declared release.",
        "api.cli.daemon:run",
        (),
        ("holdfast run", "holdfast run --documents /etc/holdfast --state /var/lib/holdfast"),
        ((OK, "ended by SIGTERM or SIGINT"), (ERROR, "another daemon holds the state, or bad input")),
        detail="Follows the document tree, looks at every target at the environment's interval and when something\n"
        "happens there, and closes the gaps. SIGTERM drains: running actions are given their time.",
    ),
    Command(
        ("serve",),
        "Run the daemon and listen for people and programs: API, dashboard, and the loop.",
        "api.cli.daemon:serve",
        (
            option("--listen", metavar="HOST:PORT", help="where (HOLDFAST_LISTEN)"),
            option("--role", choices=ROLES, help="what this process does (HOLDFAST_ROLE, default both)"),
            option("--tls-certificate", metavar="FILE", help="PEM, with its chain (HOLDFAST_TLS_CERTIFICATE)"),
            option("--tls-key", metavar="FILE", help="PEM (HOLDFAST_TLS_KEY)"),
            option(
                "--plain-http",
                action="store_const",
                const="on",
                help="listen without TLS where others reach it, behind a proxy that has it",
            ),
        ),
        (
            "holdfast serve --listen 127.0.0.1:8420",
            "holdfast serve --listen 0.0.0.0:8420 --tls-certificate cert.pem --tls-key key.pem",
        ),
        ((OK, "ended by SIGTERM or SIGINT"), (ERROR, "another daemon holds the state, or bad input")),
        detail="Everything that `holdfast run` does, and HTTP over TCP besides. The names that clients may\n"
        "call it by, beside addresses, are listed in HOLDFAST_HOSTS.",
    ),
    Command(
        ("source", "list"),
        "List the sources of documents: revision, age, signer, and what is wrong.",
        "api.cli.sources:index",
        (),
        ("holdfast source list", "holdfast source list --output json"),
        (
            (OK, "all are taken"),
            (FAILED, "one is not taken; the last accepted state stays in force"),
            (ERROR, "bad input"),
        ),
    ),
    Command(
        ("source", "show"),
        "Show one source.",
        "api.cli.sources:show_one",
        (SOURCE,),
        ("holdfast source show shop",),
        ((OK, "it is taken"), (FAILED, "it is not; says why"), (ERROR, "no such source")),
    ),
    Command(
        ("source", "refresh"),
        "Read a source now.",
        "api.cli.sources:refresh",
        (
            SOURCE,
            option("--allow", metavar="COMMIT", help="let in this commit although the history was rewritten"),
        ),
        ("holdfast source refresh shop",),
        ((OK, "it is taken"), (FAILED, "it is not; says why"), (ERROR, "no such source")),
    ),
    Command(
        ("notices", "test"),
        "Send a test message through each channel of the file of notices, and say who heard it.",
        "api.cli.notices:test",
        (option("channel", nargs="?", metavar="CHANNEL", help="its name; every one when left out"),),
        ("holdfast notices test", "holdfast notices test pager"),
        ((OK, "everybody heard it"), (FAILED, "somebody did not; says why"), (ERROR, "bad input")),
        detail="Needs no daemon. Secrets are resolved as you and in your environment, not the daemon's.",
    ),
    Command(
        ("backup",),
        "Copy everything that is kept into one file, while the daemon goes on.",
        "api.cli.backup:backup",
        (option("file", metavar="FILE", help="a new file, on the host of the daemon"),),
        ("holdfast backup /var/backups/holdfast-2026-11-21.backup",),
        detail="One moment of the database, whichever it is. The signing keys are not in it.",
    ),
    Command(
        ("restore",),
        "Read a backup into an empty database.",
        "api.cli.backup:restore",
        (option("file", metavar="FILE", help="what `holdfast backup` wrote"),),
        (
            "holdfast restore /var/backups/holdfast-2026-11-21.backup",
            "HOLDFAST_DATABASE=postgresql+psycopg://… holdfast restore FILE   # from SQLite to PostgreSQL",
        ),
        detail="The database is the one of the settings. It has to be empty, and no daemon may run on it.",
    ),
)
