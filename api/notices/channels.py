"""The ways to tell: a webhook with a signature, Slack's incoming webhook, mail. Each raises only `NotHeard`.

A webhook's receiver checks `Holdfast-Signature`: the HMAC-SHA256, under the shared secret, of `Holdfast-Time`, a dot
and the body; `Holdfast-Delivery` is the same when one is sent again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.message import EmailMessage
from typing import Any, Final

import anyio
from anyio import to_thread

from api.notices.declared import Channel, Mail, Webhook, reference
from desired_state.secrets import SecretRef
from drivers.errors import DriverError
from reconciler.store.notices import Due

WITHIN: Final = 15.0  # seconds for one telling
Secret = Callable[[SecretRef], Awaitable[str]]


class NotHeard(Exception):
    """It was not taken; the text says why and holds no secret."""


async def tell(channel: Channel, due: Due, *, secret: Secret, now: datetime, link: str) -> None:
    """Tell it once. `link` is where a person reads on, or empty."""
    try:
        with anyio.fail_after(WITHIN):
            if channel.webhook is not None:
                await _webhook(channel.webhook, due, secret, now, link)
            elif channel.slack is not None:
                address = await secret(reference(channel.slack.url))
                await _post(address, json.dumps({"text": _slack(due, link)}).encode(), {})
            elif channel.mail is not None:
                await _mail(channel.mail, due, secret, now, link)
    except TimeoutError:
        raise NotHeard(f"no answer within {WITHIN:g} s") from None
    except DriverError as error:
        raise NotHeard(str(error)) from None


def document(due: Due, link: str) -> dict[str, Any]:
    """What a webhook is sent; `state` is open or over."""
    return {
        "id": due.number,
        "state": "over" if due.closed_at else "open",
        "kind": due.notice.kind,
        "environment": due.notice.environment,
        "subject": due.notice.subject,
        "message": due.notice.message,
        "opened_at": due.opened_at.isoformat(),
        "closed_at": due.closed_at.isoformat() if due.closed_at else None,
        "link": link or None,
    }


async def _webhook(webhook: Webhook, due: Due, secret: Secret, now: datetime, link: str) -> None:
    body, moment = json.dumps(document(due, link)).encode(), now.isoformat()
    headers = {"Holdfast-Delivery": f"{due.number}-{'over' if due.closed_at else 'open'}", "Holdfast-Time": moment}
    if webhook.secret is not None:
        key = await secret(reference(webhook.secret))
        signed = hmac.new(key.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        headers["Holdfast-Signature"] = f"sha256={signed}"
    await _post(webhook.url, body, headers)


async def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    import httpx2  # a tenth of a second, and only where somebody is told something

    try:
        async with httpx2.AsyncClient(follow_redirects=False, timeout=WITHIN, trust_env=False) as client:
            answer = await client.post(url, content=body, headers={"Content-Type": "application/json", **headers})
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise NotHeard(f"the receiver did not answer ({type(error).__name__})") from None
    if not answer.is_success:
        raise NotHeard(f"the receiver answered {answer.status_code}")


def _slack(due: Due, link: str) -> str:
    """Slack reads &, < and > as its own."""
    text = _line(due)
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, written)
    return f"{text} <{link}|look>" if link else text


def _line(due: Due) -> str:
    about = f"{due.notice.environment} {due.notice.kind}" + (f" {due.notice.subject}" if due.notice.subject else "")
    return f"{about}: over" if due.closed_at else f"{about}: {due.notice.message}"


async def _mail(mail: Mail, due: Due, secret: Secret, now: datetime, link: str) -> None:
    letter = EmailMessage()
    letter["Subject"] = " ".join(_line(due).split())[:200]
    letter["From"], letter["To"] = mail.sender, ", ".join(mail.to)
    letter["Message-ID"] = (
        f"<holdfast-{due.number}-{'over' if due.closed_at else 'open'}@{mail.sender.partition('@')[2]}>"
    )
    letter["Date"] = now
    since = f"since {due.opened_at:%Y-%m-%d %H:%M:%S} UTC"
    letter.set_content("\n".join(filter(None, [_line(due), "", due.notice.message, since, link])) + "\n")
    password = await secret(reference(mail.password)) if mail.password is not None else ""
    await to_thread.run_sync(_sent, mail, letter, password, abandon_on_cancel=True)


def _sent(mail: Mail, letter: EmailMessage, password: str) -> None:
    try:
        with _connected(mail) as line:
            if mail.security == "starttls":
                line.starttls(context=ssl.create_default_context())
            if mail.user is not None:
                line.login(mail.user, password)
            line.send_message(letter)
    except smtplib.SMTPResponseException as error:
        raise NotHeard(f"{mail.host} answered {error.smtp_code}") from None
    except (smtplib.SMTPException, OSError) as error:
        raise NotHeard(f"{mail.host} did not take it ({type(error).__name__})") from None


def _connected(mail: Mail) -> smtplib.SMTP:
    if mail.security == "tls":
        return smtplib.SMTP_SSL(mail.host, mail.port, timeout=WITHIN, context=ssl.create_default_context())
    return smtplib.SMTP(mail.host, mail.port, timeout=WITHIN)
