"""Why two records differ, in words. The only place that imports deepdiff; equality is always asked first."""

from __future__ import annotations

from stickers import digest


def differences(wanted: object, found: object) -> tuple[str, ...]:
    """Sentences ``path: found …, wanted …``, empty when equal. Lists are compared by position, so key them by name
    before asking."""
    if wanted == found:
        return ()
    from deepdiff import DeepDiff

    changes = DeepDiff(digest.plain(found), digest.plain(wanted), view="tree", verbose_level=2)
    return tuple(sorted({_sentence(level) for levels in changes.values() for level in levels}))


def _sentence(level) -> str:  # type: ignore[no-untyped-def]  # a DiffLevel of deepdiff
    path = ".".join(str(step) for step in level.path(output_format="list"))
    return f"{path or 'value'}: found {_shown(level.t1)}, wanted {_shown(level.t2)}"


def _shown(value: object) -> str:
    text = repr(value)
    if text == "not present":
        return "nothing"
    return text if len(text) <= 80 else text[:77] + "..."
