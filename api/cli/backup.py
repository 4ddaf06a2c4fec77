"""`holdfast backup` and `holdfast restore`: everything that is kept, into a file and out of it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from api.cli import show
from api.client import ask
from api.problem import OK, Problem
from api.settings import Settings


def backup(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "backup", file=str(Path(given.file).absolute()))
    if given.output == "json":
        show.as_json(answer)
    else:
        print(f"{show.clean(answer['file'])}: {sum(answer['rows'].values())} rows of installation", end=" ")
        print(show.clean(answer["installation"]))
        print(f"The signing keys are not in it: keep {settings.keys} apart from it, and as safe.")
    return OK


def restore(settings: Settings, given: Namespace) -> int:
    from reconciler.store import backup as copies
    from reconciler.store.errors import StoreError

    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        copied = copies.restore(settings.database_url, Path(given.file))
    except StoreError as error:
        raise Problem(error.code, str(error)) from None
    answer = {"installation": copied.installation, "at": copied.at.isoformat(), "rows": dict(copied.rows)}
    if given.output == "json":
        show.as_json(answer)
    else:
        print(f"restored {sum(copied.rows.values())} rows of {copied.at:%Y-%m-%d %H:%M:%S} UTC")
        if not settings.keys.exists():
            print(f"{settings.keys} is missing: put the installation's keys back before `holdfast run`.")
    return OK
