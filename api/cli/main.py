"""`holdfast`: the one place that parses a command line, runs it and reports what became of it."""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from api.cli.lines import COMMANDS, GROUPS
from api.cli.lines.line import Command
from api.imports import imported
from api.problem import ERROR, OK, Problem
from api.settings import BadSetting, Gathered, gather

# New objects between two collections: at 700, a look at many hosts spends half on them.
GARBAGE: Final = (10_000, 10, 10)
SETTINGS: Final = ("listen", "role", "tls_certificate", "tls_key", "plain_http", "server")  # options of some


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
