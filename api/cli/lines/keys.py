"""Keys, what they signed, and the signer of tasks."""

from __future__ import annotations

from typing import Final

from api.cli.lines.line import LIMIT, Command, option
from api.problem import ERROR, FAILED, OK

SIGNER_DIRECTORY: Final = option(
    "--directory", metavar="DIR", default=".holdfast-signer", help="the signer's own (default ./.holdfast-signer)"
)

COMMANDS: Final = (
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
)
