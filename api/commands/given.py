"""The arguments of a command, read strictly: what is missing or of another kind is named."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api.people.principal import Principal, Verb
from api.problem import Problem
from stickers import names
from stickers.names import EnvironmentId, JobId, TargetId


class Given:
    """Arguments as they came, and who sent them. A bare name means the default project."""

    def __init__(self, arguments: Mapping[str, Any], principal: Principal, key: str | None = None) -> None:
        self._arguments, self.principal, self.key = arguments, principal, key

    @property
    def actor(self) -> str:
        return self.principal.actor

    def sees(self, environment: EnvironmentId) -> bool:
        """Whether who sent them may know of the environment."""
        return self.principal.may(Verb.READ, environment)

    def about(self) -> dict[str, Any]:
        """What is asked for, whether or not somebody waits for its end."""
        return {name: value for name, value in self._arguments.items() if name != "wait"}

    def text(self, name: str) -> str:
        value = self._arguments.get(name)
        if not isinstance(value, str) or not value:
            raise Problem("BAD_ARGUMENT", f"{name} is missing; expected a text")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._arguments.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        return self._arguments.get(name) is True

    def count(self, name: str, default: int, most: int, least: int = 1) -> int:
        value = self._arguments.get(name, default)
        if type(value) is not int or not least <= value <= most:
            raise Problem("BAD_ARGUMENT", f"{name} is {str(value)[:40]!r}; expected a number from {least} to {most}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._arguments.get(name) or []
        if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
            raise Problem("BAD_ARGUMENT", f"{name} is not a list of texts")
        return tuple(value)

    def map(self, name: str) -> Mapping[str, Any]:
        value = self._arguments.get(name)
        if not isinstance(value, dict):
            raise Problem("BAD_ARGUMENT", f"{name} is missing; expected an object")
        return value

    def moment(self, name: str) -> datetime | None:
        text = self.text_or_none(name)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise Problem(
                "BAD_ARGUMENT", f"{name} is {text[:40]!r}; expected ISO 8601 with a zone, 2026-11-22T06:00:00+01:00"
            )
        return moment

    def environment(self) -> EnvironmentId:
        return names.environment_id(*_qualified(self.text("environment")))

    def environment_or_none(self) -> EnvironmentId | None:
        return None if self._arguments.get("environment") is None else self.environment()

    def target(self, text: str | None = None) -> TargetId:
        return names.target_id(*_qualified(text or self.text("target")))

    def job(self) -> JobId:
        environment, colon, number = self.text("job").rpartition(":")
        if not colon or not number.isascii() or not number.isdigit():
            raise Problem(
                "BAD_ARGUMENT", f"{self.text('job')[:80]!r} is not a job; expected staging:12 or default/staging:12"
            )
        return names.job_id(names.environment_id(*_qualified(environment)), int(number))


def _qualified(text: str) -> tuple[str, str]:
    project, slash, name = text.rpartition("/")
    try:
        names.name(name)
        return (names.name(project) if slash else names.DEFAULT_PROJECT), name
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None
