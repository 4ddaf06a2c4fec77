"""The first admin: made where nobody is known yet, with a random password that is shown once, or one from a file."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from api.house import House
from api.people import passwords, roles
from api.settings import BadSetting, Settings
from reconciler.store import people
from reconciler.store.audit import HOLDFAST
from reconciler.store.people import Person

NAME: Final = "admin"


async def first_admin(house: House) -> str | None:
    """What a person has to be told, once; None where somebody is known already. Of replicas that start together one
    makes the admin."""
    if await house.store.read(people.all):
        return None
    given = _from_file(house.settings)
    password = given or passwords.made()
    person = Person(
        id=secrets.token_hex(6),
        name=NAME,
        password=await passwords.encoded(password),
        created_at=house.now(),
        created_by=HOLDFAST,
    )
    if not await house.store.write(lambda c: people.add_first(c, person, roles.FIRST)):
        return None
    if given is not None:
        return f"The first user is {NAME}, with the password in {house.settings.admin_password_file}."
    return f"The first user is {NAME}, the password {password} (shown this once; `holdfast user passwd` sets another)."


def _from_file(settings: Settings) -> str | None:
    if not settings.admin_password_file:
        return None
    try:
        password = Path(settings.admin_password_file).read_text().strip()
    except (OSError, ValueError) as error:
        raise BadSetting(f"HOLDFAST_ADMIN_PASSWORD_FILE: {type(error).__name__}") from None
    passwords.check(password)
    return password
