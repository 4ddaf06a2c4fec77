"""What every page has around it: templates that escape, headers that allow nothing from elsewhere, who is looking, and
the page that an error becomes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fastapi.routing import APIRoute
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.house import House
from api.http.problems import broken, status_of
from api.pages.templating import query, templates
from api.people.principal import Principal
from api.problem import Problem
from drivers.errors import DriverError
from reconciler.store.errors import StoreError

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
THEMES: Final = ("auto", "light", "dark")
THEME_COOKIE: Final = "holdfast_theme"
LOGIN: Final = "/login"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What pages are made of."""

    house: House
    templates: Environment

    @property
    def now(self) -> datetime:
        return self.house.now()


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Where news of a page come from, and the token of what it shows."""

    address: str
    token: str


def desk(house: House) -> Desk:
    return Desk(house=house, templates=templates())


def show(
    desk: Desk,
    request: Request,
    template: str,
    *,
    title: str,
    live: Live | None = None,
    status: int = 200,
    **shown: Any,
) -> Response:
    """A page."""
    context = {
        "title": title,
        "live": live,
        "principal": principal_or_none(request),
        "theme": theme_of(request),
        "csrf": getattr(request.state, "csrf", ""),
        "now": desk.now,
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "section": request.url.path.split("/")[1],
        "installation": desk.house.installation,
        "word": "",
    }
    return HTMLResponse(desk.templates.get_template(template).render(context | shown), status, HEADERS)


def principal_or_none(request: Request) -> Principal | None:
    found: Principal | None = getattr(request.state, "principal", None)
    return found


def principal_of(request: Request) -> Principal:
    """Who passed the guard."""
    found = principal_or_none(request)
    if found is None:
        raise Problem("UNAUTHENTICATED", "nobody is known here")
    return found


def theme_of(request: Request) -> str:
    chosen = request.cookies.get(THEME_COOKIE, "auto")
    return chosen if chosen in THEMES else "auto"


def sent_to(address: str) -> Response:
    """After a form: the browser asks for the page anew, so that a reload sends nothing twice."""
    return RedirectResponse(address, 303, HEADERS)


def local(address: str | None, otherwise: str = "/") -> str:
    """An address of ours; anything that could lead elsewhere is not followed."""
    if not address or not address.startswith("/") or address.startswith(("//", "/\\")) or not address.isprintable():
        return otherwise
    return address


# -- errors -----------------------------------------------------------------------------------------------------------

_WHAT_TO_DO: Final[Mapping[int, str]] = {
    401: "Log in, and you come back to this page.",
    403: "Ask whoever keeps the people of this installation for a grant, or go on with what you may see.",
    404: "Look for it in the search above, or begin at the fleet.",
    409: "Go back, look at how things stand now, and ask again.",
    422: "Go back and correct what is named above.",
    429: "Wait a moment, then try again.",
    503: "Try again in a moment; nothing was lost.",
}


def pages(desk: Desk) -> type[APIRoute]:
    """A route whose errors are pages. Whoever is not known is asked to log in."""

    class Page(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await inner(request)
                except Problem as problem:
                    return refused(desk, request, problem)
                except DriverError as error:
                    return refused(desk, request, Problem(error.code, desk.house.redactor.clean(str(error))))
                except StoreError as error:
                    return refused(desk, request, Problem(error.code, str(error)))
                except Exception as error:
                    return refused(desk, request, broken(error, request.url.path))

            return answer

    return Page


def refused(desk: Desk, request: Request, problem: Problem) -> Response:
    """The page of a problem, with what to do about it."""
    status = status_of(problem)
    if status == 401 and request.method == "GET":
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return sent_to(f"{LOGIN}{query(next=here)}")
    advice = _WHAT_TO_DO.get(status, "The log of the daemon says more.")
    return show(desk, request, "problem.html", title="That did not work", status=status, problem=problem, advice=advice)
