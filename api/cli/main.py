"""`holdfast`: the commands as data, and the one place that parses, runs and reports them.

A command is a row: what it is for, its options, examples, exit codes, and the function that carries it out, named as
text so that nothing is imported before it is needed.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from api.imports import imported
from api.problem import CHANGES, ERROR, FAILED, OK, Problem
from api.settings import ROLES, BadSetting, Gathered, gather


@dataclass(frozen=True)
class Option:
    """One argument of a command, in the words of argparse."""

    flags: tuple[str, ...]
    words: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command line. `run` is `module:function` of `(Settings, Namespace) -> exit code`."""

    path: tuple[str, ...]
    summary: str
    run: str
    options: tuple[Option, ...] = ()
    examples: tuple[str, ...] = ()
    exits: tuple[tuple[int, str], ...] = ((OK, "done"), (ERROR, "bad input, or it could not be asked"))
    detail: str = ""
    formats: tuple[str, ...] = ("text", "json")


def option(*flags: str, **words: Any) -> Option:
    return Option(flags, words)


ENVIRONMENT: Final = option("environment", metavar="ENV", help="name, or project/name")
TARGET: Final = option("target", metavar="TARGET", help="name, or project/name")
SOURCE: Final = option("source", metavar="SOURCE", help="its name")
JOB: Final = option("job", metavar="JOB", help="job id, such as default/staging:12 or staging:12")
LIMIT: Final = option("--limit", type=int, default=20, metavar="N", help="how many rows (default 20)")
WAIT: Final = option("--no-wait", action="store_true", help="answer as soon as the job is made; do not follow it")
SIGNER_DIRECTORY: Final = option(
    "--directory", metavar="DIR", default=".holdfast-signer", help="the signer's own (default ./.holdfast-signer)"
)
HOLDER: Final = option("name", metavar="NAME", help="a user, or group:NAME")
AGENT: Final = option("name", metavar="NAME", help="an agent")
KINDS: Final = option("kinds", nargs="+", metavar="KIND", help="docker, compose, process, systemd or script")
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
GARBAGE: Final = (
    10_000,
    10,
    10,
)  # new objects between two collections: at 700, a look at many hosts spends half on them
JOB_EXITS: Final = (
    (OK, "done, or nothing to do"),
    (FAILED, "the job failed, was rolled back, cancelled or superseded"),
    (ERROR, "bad input, or the world has moved since the plan"),
)

COMMANDS: Final = (
    Command(
        ("init",),
        "Write a commented starter tree of documents, with examples of settings, sources and notices.",
        "api.cli.documents:init",
        (option("directory", nargs="?", default="holdfast", metavar="DIR", help="where (default ./holdfast)"),),
        ("holdfast init", "holdfast init deploy/holdfast"),
        detail="Refuses to write into a directory that holds documents already. Files that end in .example are for\n"
        "settings, sources and notices: copy them to where the settings name them.",
    ),
    Command(
        ("validate",),
        "Check a tree of documents; every finding at once.",
        "api.cli.documents:validate",
        (option("directory", nargs="?", metavar="DIR", help="the tree (default: HOLDFAST_DOCUMENTS or ./holdfast)"),),
        ("holdfast validate", "holdfast validate deploy/ --output json"),
        ((OK, "no findings"), (ERROR, "findings, each with file, line, column, what was found and what is expected")),
    ),
    Command(
        ("schema",),
        "Print the JSON Schema of the documents, for editors.",
        "api.cli.documents:schema",
        (),
        ("holdfast schema > holdfast.schema.json",),
    ),
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
        ("release", "create"),
        "Make a release document; tags are resolved to digests once, now.",
        "api.cli.documents:release_create",
        (
            option("release", metavar="NAME@VERSION", help="such as shop@2.3.1"),
            option("components", nargs="+", metavar="COMPONENT=IMAGE", help="image:tag or image@sha256:…"),
            option("--project", default="default", help="default: default"),
            option("--source", metavar="URL", help="the repository the release was built from"),
            option("--commit", metavar="SHA", help="the commit the release was built from"),
            option("--insecure", action="append", default=[], metavar="HOST:PORT", help="a registry spoken to in http"),
            option(
                "--credentials",
                action="append",
                default=[],
                metavar="HOST=SECRET",
                help="where a registry's username:password is kept, such as registry.example.com=env:REGISTRY_LOGIN",
            ),
            option("--file", metavar="FILE", help="write there, not to the terminal; never overwrites"),
        ),
        ("holdfast release create shop@2.3.1 api=registry.example.com/shop/api:v2.3.1 --file shop-2.3.1.yaml",),
    ),
    Command(
        ("artifact", "pack"),
        "Pack a directory into an OCI image layout and print its digest; same input, same digest.",
        "api.cli.documents:artifact_pack",
        (
            option("directory", metavar="DIR", help="what to pack"),
            option("layout", metavar="LAYOUT", help="an OCI layout directory; made when it is missing"),
        ),
        ("holdfast artifact pack build/ artifacts/",),
        detail="For `process` targets, whose artifacts are OCI manifests too.",
    ),
    Command(
        ("keys", "init"),
        "Make the installation's first signing key.",
        "api.cli.keys:init",
        (),
        ("holdfast keys init",),
    ),
    Command(
        ("keys", "rotate"),
        "Make a new signing key; what the old one signed stays valid.",
        "api.cli.keys:rotate",
        (),
        ("holdfast keys rotate",),
    ),
    Command(
        ("keys", "list"),
        "List the keys and what each may speak of.",
        "api.cli.keys:show_all",
        (),
        ("holdfast keys list",),
    ),
    Command(
        ("sticker", "verify"),
        "Read and verify a sticker file, offline.",
        "api.cli.keys:verify",
        (option("file", metavar="FILE", help="a sticker.json"),),
        ("holdfast sticker verify /srv/shop/api/sticker.json",),
        ((OK, "valid"), (FAILED, "unsigned, forged or unreadable; says which and why"), (ERROR, "no such file")),
    ),
    Command(
        ("signer", "init"),
        "Make the signer's directory: its first key, and a policy to begin with.",
        "api.cli.signer:init",
        (SIGNER_DIRECTORY,),
        ("holdfast signer init --directory /var/lib/holdfast-signer",),
        detail="As a user of its own, that is not the server's. Agents trust the key by its fingerprint.",
    ),
    Command(
        ("signer", "run"),
        "Run the signer: authorise what agents are asked to do, by a policy and documents of its own.",
        "api.cli.signer:run",
        (
            SIGNER_DIRECTORY,
            option("--socket", metavar="PATH", help="where it is asked (default signer.sock in the directory)"),
            option("--group", metavar="NAME", help="the group that the socket is given to"),
        ),
        ("holdfast signer run --directory /var/lib/holdfast-signer --group holdfast",),
        ((OK, "ended by SIGTERM or SIGINT"), (ERROR, "another process signs from there, or bad input")),
    ),
    Command(
        ("signer", "check"),
        "Check the signer's policy; with a verb, say whether its rules let such a task.",
        "api.cli.signer:check",
        (
            SIGNER_DIRECTORY,
            option("--policy", metavar="FILE", help="another than that of the directory"),
            option("--verb", metavar="VERB", help="such as deploy"),
            option("--agent", metavar="NAME", default="", help="whose task it is"),
            option("--target", metavar="TARGET", default="", help="name, or project/name"),
            option("--environment", metavar="ENV", default="", help="name, or project/name"),
            option("--repository", metavar="REPOSITORY", help="where the artifact is from"),
        ),
        (
            "holdfast signer check --directory /var/lib/holdfast-signer",
            "holdfast signer check --verb deploy --agent web-1 --target web-1 --environment prod",
        ),
        ((OK, "no findings, and the rules let it"), (FAILED, "the rules do not let it; says why"), (ERROR, "findings")),
    ),
    Command(
        ("signer", "rotate"),
        "Make the key that is to follow; with --finish, have it sign.",
        "api.cli.signer:rotate",
        (SIGNER_DIRECTORY, option("--finish", action="store_true", help="the key that was made signs from now on")),
        ("holdfast signer rotate", "holdfast signer rotate --finish"),
        detail="In between, the former key signs the tasks by which agents learn to trust the new one.",
    ),
    Command(
        ("signer", "log"),
        "Show what was signed and refused; with --verify, whether the log is whole.",
        "api.cli.signer:log",
        (SIGNER_DIRECTORY, LIMIT, option("--verify", action="store_true", help="follow the chain from its beginning")),
        ("holdfast signer log --limit 50", "holdfast signer log --verify"),
        ((OK, "shown, or whole"), (FAILED, "a line does not follow from the one before it"), (ERROR, "bad input")),
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
        ("status",),
        "Show the environments, or the targets of one.",
        "api.cli.fleet:status",
        (option("environment", nargs="?", metavar="ENV", help="name, or project/name"),),
        ("holdfast status", "holdfast status staging", "holdfast status --output json"),
    ),
    Command(
        ("drift",),
        "Show every placement that is not in sync, and why.",
        "api.cli.fleet:drift",
        (option("environment", nargs="?", metavar="ENV", help="name, or project/name"),),
        ("holdfast drift", "holdfast drift staging", "holdfast drift --output html > drift.html"),
        ((OK, "everything is in sync"), (CHANGES, "something drifts or is unknown"), (ERROR, "it could not be asked")),
        formats=("text", "json", "csv", "html"),
        detail="csv is for spreadsheets; html is one file that can be mailed, with everything it needs inside.",
    ),
    Command(
        ("plan",),
        "Show what would be done, per target and component; changes nothing.",
        "api.cli.fleet:plan",
        (ENVIRONMENT,),
        ("holdfast plan staging", "holdfast plan staging --output json"),
        ((OK, "nothing to do"), (CHANGES, "there are changes"), (ERROR, "it could not be planned")),
        detail="The plan's hash is what `holdfast sync ENV --plan-hash` takes.",
    ),
    Command(
        ("sync",),
        "Close the gap now, also where the policy asks for a person.",
        "api.cli.fleet:sync",
        (
            ENVIRONMENT,
            option("--plan-hash", metavar="HASH", help="only exactly this plan; refused when the world has moved"),
            option(
                "--confirm-removal", metavar="HASH", help="allow the large removal that `plan` shows under this hash"
            ),
            WAIT,
        ),
        ("holdfast sync staging", "holdfast sync prod --plan-hash 3f9c21aa"),
        JOB_EXITS,
    ),
    Command(
        ("rollback",),
        "Return every placement to what it last ran healthily, by the same strategy.",
        "api.cli.fleet:rollback",
        (ENVIRONMENT, option("--reason", default="asked for by a person", help="kept in the record"), WAIT),
        ("holdfast rollback staging --reason 'checkout is slow'",),
        JOB_EXITS,
        detail="What was rolled back is refused until its content changes or `holdfast resume ENV --lift-refused`.",
    ),
    Command(
        ("adopt",),
        "Take over workloads that already run as declared, without restarting them.",
        "api.cli.fleet:adopt",
        (ENVIRONMENT, option("targets", nargs="*", metavar="TARGET", help="all when left out"), WAIT),
        ("holdfast adopt staging", "holdfast adopt staging web-1"),
        JOB_EXITS,
    ),
    Command(
        ("suspend",),
        "Stop changing an environment; it is still looked at.",
        "api.cli.fleet:suspend",
        (
            ENVIRONMENT,
            option("--reason", required=True, help="shown wherever the suspension is"),
            option("--until", metavar="TIME", help="ISO 8601 with a zone; until resumed when left out"),
        ),
        ("holdfast suspend prod --reason 'database migration' --until 2026-11-22T06:00:00+01:00",),
    ),
    Command(
        ("resume",),
        "End a suspension.",
        "api.cli.fleet:resume",
        (
            ENVIRONMENT,
            option("--lift-refused", action="store_true", help="also forget what failed here, and try it again"),
        ),
        ("holdfast resume prod", "holdfast resume staging --lift-refused"),
    ),
    Command(
        ("why",),
        "Explain a target: what is declared, worn and running, the rule that fired, and what happens next.",
        "api.cli.fleet:why",
        (TARGET,),
        ("holdfast why web-1",),
    ),
    Command(
        ("history",),
        "Show what happened in an environment, or what was known at a moment.",
        "api.cli.fleet:history",
        (
            ENVIRONMENT,
            option("--target", metavar="TARGET", help="how the placements of one target stood"),
            option("--at", metavar="TIME", help="what was known then (ISO 8601 with a zone)"),
            option("--before", metavar="CURSOR", help="the next page, as printed"),
            LIMIT,
        ),
        (
            "holdfast history staging",
            "holdfast history staging --target web-1",
            "holdfast history staging --at 2026-11-21T14:05:00+00:00",
        ),
    ),
    Command(
        ("logs",),
        "Show what a component printed on a target.",
        "api.cli.fleet:logs",
        (
            TARGET,
            option("component", metavar="COMPONENT"),
            option("--tail", type=int, default=100, metavar="N", help="last lines (default 100)"),
            option("-f", "--follow", action="store_true", help="go on until Ctrl-C"),
        ),
        ("holdfast logs web-1 api --tail 20", "holdfast logs web-1 api -f"),
    ),
    Command(
        ("evidence",),
        "Show a signed statement by its id, verified.",
        "api.cli.fleet:evidence",
        (option("id", metavar="ID", help="sha256:…, as shown by `why` and `job show`"),),
        ("holdfast evidence sha256:4f1d…",),
    ),
    Command(
        ("apply",),
        "Write documents into the database, for environments that it owns.",
        "api.cli.apply:apply",
        (
            option(
                "-f", "--file", action="append", required=True, metavar="FILE", help="a file or a directory; - reads"
            ),
            option("--dry-run", action="store_true", help="check everything and show what would change"),
            option("--remove", action="store_true", help="take these documents out of the database instead"),
            option("--revision", type=int, metavar="N", help="only when nothing was written since this revision"),
        ),
        (
            "holdfast apply -f staging.yaml --dry-run",
            "holdfast apply -f deploy/",
            "cat prod.yaml | holdfast apply -f -",
        ),
        (
            (OK, "written, or nothing to change"),
            (ERROR, "findings, somebody else owns it, or it was written meanwhile"),
        ),
        detail="Needs a source `database: {}` in the file that HOLDFAST_SOURCES names. All documents are written\n"
        "together or none, and checked as those of every source are. A release never changes.",
    ),
    Command(
        ("export",),
        "Write the documents of the database as YAML files.",
        "api.cli.apply:export",
        (
            option("environment", nargs="?", metavar="ENV", help="with its targets and its release; all when left out"),
            option("-o", "--to", metavar="DIR", help="where; printed when left out, never overwrites"),
        ),
        ("holdfast export staging", "holdfast export -o backup/"),
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
    Command(
        ("job", "list"),
        "List jobs, newest first.",
        "api.cli.jobs:index",
        (
            option("environment", nargs="?", metavar="ENV"),
            option("--in", dest="in_state", metavar="STATE", help="only jobs in this state"),
            option("--before", metavar="CURSOR", help="the next page, as printed"),
            LIMIT,
        ),
        ("holdfast job list", "holdfast job list staging --in failed"),
    ),
    Command(
        ("job", "show"),
        "Show one job: waves, tasks, attempts, evidence and progress.",
        "api.cli.jobs:show_one",
        (JOB, option("-f", "--follow", action="store_true", help="follow it until it ends")),
        ("holdfast job show staging:12",),
        JOB_EXITS,
    ),
    Command(
        ("artifacts",),
        "Show the files that a job deployed: compose locks, units, variables, proxies, and its manifest.",
        "api.cli.artifacts:index",
        (
            JOB,
            option("--kind", metavar="KIND", help="only of this kind, such as compose-lock or manifest"),
            option("--target", metavar="TARGET", help="only of this target (name, or project/name)"),
            option("--name", metavar="NAME", help="only of this name, such as api.env"),
            option("--back", action="store_true", help="raw: the file of the way back, where the job went back"),
        ),
        (
            "holdfast artifacts staging:12",
            "holdfast artifacts staging:12 --kind compose-lock --target web-1 --output raw",
            "holdfast artifacts staging:12 --output json",
        ),
        (
            (OK, "shown"),
            (ERROR, "no such job or file, or --output raw and more than one file is meant; says which there are"),
        ),
        detail="Files are rendered and kept when a job is prepared, before anything is changed, and never change. A\n"
        "secret is in them as its reference, never as its value. The digest is that of the bytes, as sha256sum has\n"
        "it.\n\n"
        "compose-file  the template of a compose target as it was understood\n"
        "compose-lock  what compose is told; rollbacks and heals deploy the one that was proven\n"
        "env-file      the declared variables of a component\n"
        "systemd-unit  the unit of a component, where its document declares the command\n"
        "nginx-config  the proxy of a component that declares one\n"
        "manifest      what the job deploys where, by digest",
        formats=("text", "json", "raw"),
    ),
    Command(
        ("job", "cancel"),
        "Cancel a job; what runs is looked at, not torn.",
        "api.cli.jobs:cancel",
        (JOB,),
        ("holdfast job cancel staging:12",),
    ),
    Command(
        ("job", "pause"),
        "Pause a job at the end of its wave.",
        "api.cli.jobs:pause",
        (JOB,),
        ("holdfast job pause staging:12",),
    ),
    Command(
        ("job", "continue"),
        "Continue a paused job.",
        "api.cli.jobs:resume",
        (JOB,),
        ("holdfast job continue staging:12",),
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
        ("agent", "invite"),
        "Invite a host: print a join token for it, once, and keep the name and targets for it.",
        "api.cli.agents:invite",
        (
            option("name", metavar="NAME", help="what the agent is called: small letters, digits and hyphens"),
            option(
                "--target",
                dest="targets",
                action="append",
                default=[],
                metavar="T",
                help="it serves; may be given again",
            ),
            option(
                "--kind", dest="kinds", action="append", default=[], metavar="KIND", help="runtime granted to it; again"
            ),
            option("--shared", action="store_true", help="other agents serve these targets too, one of them at a time"),
        ),
        (
            "holdfast agent invite web-1 --target web-1 --kind docker",
            "holdfast agent invite rack-2 --target edge --shared --kind compose --kind systemd",
            "holdfast agent invite web-1 --output json | jq -r .token",
        ),
        (
            (OK, "the token is printed"),
            (ERROR, "the name is locked, a target is somebody else's, or no signer is known"),
        ),
        detail="The token counts for 15 minutes and once; a second use locks the name. An agent that is there already\n"
        "keeps its targets and is somebody new once it has joined again. Kinds: docker, compose, process, systemd,\n"
        "script.",
    ),
    Command(
        ("agent", "list"),
        "List agents: state, version, capabilities, last contact, queue, targets.",
        "api.cli.agents:index",
        (option("--all", action="store_true", help="the removed ones too"),),
        ("holdfast agent list", "holdfast agent list --output json"),
        detail="online    heard within 45 s\ndegraded  a sign of life is missing\noffline   silent for more than 90 s",
    ),
    Command(
        ("agent", "show"),
        "Show one agent, with its certificates.",
        "api.cli.agents:show_one",
        (AGENT,),
        ("holdfast agent show web-1",),
        ((OK, "it may speak"), (FAILED, "it is locked, removed or has not joined"), (ERROR, "no such agent")),
    ),
    Command(
        ("agent", "lock"),
        "Speak with an agent no more, at once; nothing it holds is changed.",
        "api.cli.agents:lock",
        (AGENT, option("--reason", metavar="WHY", help="kept in the record")),
        ("holdfast agent lock web-1 --reason 'the host was stolen'",),
    ),
    Command(
        ("agent", "unlock"),
        "Speak with an agent again; one whose identity was copied has to be invited anew.",
        "api.cli.agents:unlock",
        (AGENT,),
        ("holdfast agent unlock web-1",),
    ),
    Command(
        ("agent", "remove"),
        "Forget an agent: its identity, its rights and its targets.",
        "api.cli.agents:remove",
        (AGENT,),
        ("holdfast agent remove web-1",),
        detail="What runs on the host goes on running. The name may be given to another host.",
    ),
    Command(
        ("agent", "drain"),
        "Let an agent end what it does, and give it nothing new.",
        "api.cli.agents:drain",
        (AGENT, option("--end", action="store_true", help="give it work again")),
        ("holdfast agent drain web-1", "holdfast agent drain web-1 --end"),
    ),
    Command(
        ("agent", "grant"),
        "Let an agent work with a runtime.",
        "api.cli.agents:grant",
        (AGENT, KINDS),
        ("holdfast agent grant web-1 docker systemd",),
        detail="Kinds: docker, compose, process, systemd, script.",
    ),
    Command(
        ("agent", "revoke"),
        "Let an agent work with a runtime no more.",
        "api.cli.agents:revoke",
        (AGENT, KINDS),
        ("holdfast agent revoke web-1 script",),
    ),
    Command(
        ("agent", "bind"),
        "Give an agent one more target.",
        "api.cli.agents:bind",
        (AGENT, TARGET, option("--shared", action="store_true", help="with other agents, one of them at a time")),
        ("holdfast agent bind web-1 cache-1",),
    ),
    Command(
        ("agent", "unbind"),
        "Take a target from an agent.",
        "api.cli.agents:unbind",
        (AGENT, TARGET),
        ("holdfast agent unbind web-1 cache-1",),
    ),
    Command(
        ("agent", "take"),
        "Let this one, of the agents that share a target, hold it from now on.",
        "api.cli.agents:take",
        (AGENT, TARGET),
        ("holdfast agent take rack-2 edge",),
        detail="What another began there is fenced off: it is refused from then on.",
    ),
    Command(
        ("agent", "hold"),
        "Let the agent of a target keep it as it is while it can reach no server.",
        "api.cli.agents:hold",
        (TARGET, option("--for", dest="span", required=True, metavar="SPAN", help="30m, 12h, 7d; 0 ends it")),
        ("holdfast agent hold web-1 --for 7d", "holdfast agent hold web-1 --for 0"),
        ((OK, "it is held"), (ERROR, "no agent, or it cannot be reached")),
        detail="The agent heals what was last authorised and proven, and nothing else. Without it an agent that is\n"
        "cut off changes nothing.",
    ),
    Command(
        ("agent", "run"),
        "Run a command that a target's host has given a name, through its agent.",
        "api.cli.agents:run",
        (
            TARGET,
            option("name", metavar="NAME", help="as the host's settings name it"),
            option("arguments", nargs="*", metavar="ARG", help="what the host's pattern for it lets through"),
        ),
        ("holdfast agent run web-1 reload-proxy", "holdfast agent run web-1 service -- restart nginx"),
        ((OK, "it ended with 0"), (FAILED, "it ended otherwise; shows how"), (ERROR, "nobody lets it, or no agent")),
        detail="The signer's policy and the host's own settings both have to let it. It is run once.",
    ),
    Command(
        ("agent", "upload"),
        "Put files into a directory that a target's host has given a name, through its agent.",
        "api.cli.agents:upload",
        (
            TARGET,
            option("name", metavar="NAME", help="as the host's settings name it"),
            option("files", nargs="+", metavar="FILE", help="each by its own name; PATH=FILE for another"),
        ),
        ("holdfast agent upload web-1 pages index.html", "holdfast agent upload web-1 pages img/a.png=a.png"),
        ((OK, "all of them are there"), (ERROR, "nobody lets it, or no agent; none is there")),
    ),
    Command(
        ("agent", "inspect"),
        "Have a target's agent look at it now, and ask its health checks once.",
        "api.cli.agents:inspect",
        (TARGET,),
        ("holdfast agent inspect web-1",),
        ((OK, "shown"), (FAILED, "its agent cannot see it; says why"), (ERROR, "nobody lets it, or no agent")),
        detail="Nothing is changed, and nothing is recorded. The signer's policy has to let health-check.",
    ),
    Command(
        ("agent", "upgrade"),
        "Have an agent take another version's place, and take its own again where that does not report.",
        "api.cli.agents:upgrade",
        (
            AGENT,
            option("artifact", metavar="ARTIFACT", help="repository@sha256:…, with the program holdfast-agent in it"),
            option("--version", required=True, metavar="V", help="what the new one is called"),
        ),
        ("holdfast agent upgrade web-1 registry.example.com/holdfast/agent@sha256:… --version 0.2.0",),
        ((OK, "the new one has reported"), (ERROR, "nobody lets it, no agent, or it was undone; says why")),
        detail="The signer's policy (verb upgrade, repositories) and the host's own settings (upgrade) both have to\n"
        "let it.",
    ),
    Command(
        ("agent", "trust"),
        "Have every agent believe the key that `holdfast signer rotate` has made.",
        "api.cli.agents:trust",
        (),
        ("holdfast agent trust",),
        ((OK, "all of them do"), (FAILED, "some could not be told; run it again"), (ERROR, "no rotation is under way")),
        detail="The former key vouches for the new one, and is believed for another day.",
    ),
    Command(
        ("agent", "declare-dead"),
        "Answer for it that nothing runs on a lost host any more.",
        "api.cli.agents:declare_dead",
        (AGENT,),
        ("holdfast agent declare-dead rack-1",),
        detail="The agent is locked; whoever shares a target with it takes over; what it began is refused from then\n"
        "on. Where the host is only cut off, what runs there goes on running: be sure.",
    ),
    Command(
        ("authority", "show"),
        "Show who issues the certificates of agents, until when, and how many agents depend on each.",
        "api.cli.agents:authority",
        (),
        ("holdfast authority show",),
        ((OK, "shown"), (FAILED, "the issuer ends within 60 days; rotate it"), (ERROR, "it could not be asked")),
    ),
    Command(
        ("authority", "rotate"),
        "Make a new issuer; the former one counts until it is retired.",
        "api.cli.agents:rotate",
        (),
        ("holdfast authority rotate",),
        detail="Needs the private key of the root, which may be kept elsewhere at all other times. Agents that are\n"
        "offline come back with what they have.",
    ),
    Command(
        ("authority", "retire"),
        "Believe a former issuer no more.",
        "api.cli.agents:retire",
        (
            option("id", metavar="ID", help="as `authority show` names it"),
            option("--force", action="store_true", help="even where agents have to be invited again then"),
        ),
        ("holdfast authority retire 4f1d0c22ab90",),
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

SETTINGS: Final = ("listen", "role", "tls_certificate", "tls_key", "plain_http", "server")  # options of some

GROUPS: Final = {
    "user": "people and their grants",
    "token": "tokens of machines",
    "agent": "agents on hosts that nothing can reach",
    "authority": "the authority that issues the certificates of agents",
    "audit": "the audit log",
    "release": "releases",
    "artifact": "artifacts of process targets",
    "keys": "signing keys",
    "signer": "the signer of agents' tasks",
    "sticker": "stickers",
    "source": "sources of documents",
    "notices": "telling people elsewhere",
    "job": "jobs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; every error is one line on stderr (or one JSON object with `--output json`)."""
    gc.set_threshold(*GARBAGE)
    arguments = parser().parse_args(argv)
    try:
        gathered = _settings(arguments)
        arguments.origins = gathered.origins  # for `holdfast settings`, which says where each comes from
        module, _, function = arguments.run.partition(":")
        return int(getattr(imported(module), function)(gathered.settings, arguments))
    except BadSetting as error:
        return _report(_bad(error), arguments.output)
    except Problem as problem:
        return _report(problem, arguments.output)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; nobody is left to be told
        return OK


def _settings(arguments: argparse.Namespace) -> Gathered:
    documents, state, file = arguments.documents, arguments.state, arguments.settings
    named: dict[str, Any] = {name: getattr(arguments, name, None) for name in SETTINGS}
    named |= {"documents": documents and Path(documents), "state": state and Path(state)}
    return gather(file=Path(file) if file else None, database=arguments.database, **named)


def _bad(error: BadSetting) -> Problem:
    if not error.findings:
        return Problem("BAD_SETTING", str(error))
    from stickers import digest

    return Problem("BAD_SETTING", str(error), findings=[digest.plain(finding) for finding in error.findings])


def _report(problem: Problem, output: str) -> int:
    if output == "json":
        import json

        print(json.dumps({"problem": problem.document()}, indent=2))
    else:
        print(f"holdfast: {problem.detail} [{problem.code}]", file=sys.stderr)
    return problem.exit_code


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> None:
        from importlib.metadata import version  # 20 ms that only this option needs

        print(f"holdfast {version('holdfast')}")
        sys.exit(OK)


class _Parser(argparse.ArgumentParser):
    """One that names the nearest word, and where to read on."""

    def error(self, message: str) -> NoReturn:
        wrong = _CHOICE.search(message)
        if wrong is not None:
            import difflib

            near = difflib.get_close_matches(wrong["found"], re.findall(r"[\w-]+", wrong["known"]), n=1)
            message = f"{message[: wrong.start()]}there is no {wrong['found']!r}" + (
                f"; did you mean {near[0]}?" if near else ""
            )
        print(f"{self.prog}: {message}\nSee `{self.prog} --help`.", file=sys.stderr)
        sys.exit(ERROR)


_CHOICE: Final = re.compile(r"invalid choice: '(?P<found>.*)' \(choose from (?P<known>.*)\)")


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="holdfast",
        description="Holds hosts fast to the release that was declared for them.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    level = top.add_subparsers(metavar="COMMAND", required=True, title="commands")
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        where = level
        if len(command.path) == 2:
            where = groups.setdefault(command.path[0], None) or _group(level, groups, command.path[0])
        _add(where, command)
    return top


def _group(level: Any, groups: dict[str, Any], name: str) -> Any:
    group = level.add_parser(name, help=f"commands for {GROUPS[name]}", description=f"Commands for {GROUPS[name]}.")
    groups[name] = group.add_subparsers(metavar="COMMAND", required=True, title="commands")
    return groups[name]


def _add(where: Any, command: Command) -> None:
    line = where.add_parser(
        command.path[-1],
        help=command.summary,
        description=command.summary + (f"\n\n{command.detail}" if command.detail else ""),
        epilog=_epilog(command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for item in command.options:
        line.add_argument(*item.flags, **item.words)
    line.add_argument("--documents", metavar="DIR", help="the tree of documents (HOLDFAST_DOCUMENTS)")
    line.add_argument("--state", metavar="DIR", help="database, keys and socket (HOLDFAST_STATE, default ./.holdfast)")
    line.add_argument("--database", metavar="URL", help="another database (HOLDFAST_DATABASE)")
    line.add_argument("--settings", metavar="FILE", help="the file of settings (HOLDFAST_SETTINGS)")
    raw = "; raw: one file as it is" if "raw" in command.formats else ""
    said = f"json: the whole answer, for programs{raw}"
    line.add_argument("--output", choices=command.formats, default="text", help=said)
    line.set_defaults(run=command.run)


def _epilog(command: Command) -> str:
    examples = "".join(f"  {example}\n" for example in command.examples)
    exits = "".join(f"  {code:<3} {meaning}\n" for code, meaning in command.exits)
    return f"examples:\n{examples}\nexit codes:\n{exits}"


def _overview() -> str:
    return (
        "examples:\n"
        "  holdfast init && holdfast keys init && holdfast run\n"
        "  holdfast status staging\n"
        "  holdfast plan staging && holdfast sync staging\n"
        "  holdfast why web-1\n\n"
        "`holdfast COMMAND --help` has the options, examples and exit codes of each command.\n"
        "exit codes: 0 done, 1 tried and failed, 2 bad input or not possible, 10 there are changes\n"
    )


if __name__ == "__main__":
    sys.exit(main())
