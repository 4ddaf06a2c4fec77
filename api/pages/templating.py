"""Templates with the words of `words`: of pages, and of the report that is made without any page."""

from __future__ import annotations

import json
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from api.pages import words

STATIC: Final = Path(__file__).parent / "static"


def templates() -> Environment:
    """Everything is escaped; a name that a page does not hand over is an error."""
    made = Environment(
        loader=PackageLoader("api.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "short": words.short,
        "bare": words.bare,
        "moment": words.moment,
        "machine": words.machine,
        "span": words.span,
        "job_tone": words.job_tone,
        "task_tone": words.task_tone,
        "mark": words.mark,
        "path": lambda text: quote(text, safe="/"),
        "age_text": words.ago,
        "instant": datetime.fromisoformat,
        "pretty": lambda content: json.dumps(content, indent=2, ensure_ascii=False, default=str),
    }
    made.globals |= {"asset": _asset, "SYMBOLS": words.SYMBOLS, "MARKS": words.MARKS, "query": query}
    return made


def query(**given: object) -> str:
    """A query of what is given; empty without."""
    pairs = {name: value for name, value in given.items() if value not in (None, "")}
    return f"?{urlencode(pairs)}" if pairs else ""


_VERSIONS: Final[dict[str, str]] = {}


def _asset(name: str) -> str:
    """The address of a static file; another content has another address, so it may be kept for ever."""
    if name not in _VERSIONS:
        _VERSIONS[name] = sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={_VERSIONS[name]}"
