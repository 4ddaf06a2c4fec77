"""The fleet: what is declared, seen and done there."""

from __future__ import annotations

from typing import Final

from api.cli.lines.line import LIMIT, TARGET, Command, option
from api.problem import CHANGES, ERROR, FAILED, OK

ENVIRONMENT: Final = option("environment", metavar="ENV", help="name, or project/name")
JOB: Final = option("job", metavar="JOB", help="job id, such as default/staging:12 or staging:12")
WAIT: Final = option("--no-wait", action="store_true", help="answer as soon as the job is made; do not follow it")
JOB_EXITS: Final = (
    (OK, "done, or nothing to do"),
    (FAILED, "the job failed, was rolled back, cancelled or superseded"),
    (ERROR, "bad input, or the world has moved since the plan"),
)

COMMANDS: Final = (
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
)
