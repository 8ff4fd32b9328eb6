"""Who may see the admin pages: a token, exchanged for a cookie, and a proof in each form that the page was ours.

Nothing is stored: a cookie is ``role.expiry.nonce.signature``, signed with a key that ends with the process, and the
proof is a hash of the cookie. Without a token the pages are open, but only to this machine: to no other name in
``Host`` (a foreign page could make its own name point here) and to no foreign ``Origin``.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from optimus_server.errors import Refused
from optimus_server.settings import Settings

COOKIE = "optimus_admin"
PATH = "/admin"
LASTS_S = 12 * 3600
MAX_FORM = 8192

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

Role = Literal["guest", "operator"]


class Access:
    """The check at the door.

    Args:
        token: what opens it; None opens it to everybody on this machine.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._key = secrets.token_bytes(32)

    @classmethod
    def of(cls, settings: Settings) -> "Access | None":
        """None if there is to be no door: no token, and others can reach the server."""
        return cls(settings.admin_token) if settings.admin_token or settings.local else None

    @property
    def needs_login(self) -> bool:
        return self._token is not None

    def cookie(self, request: Request) -> str:
        """The request's cookie, or a new one if that is missing or does not hold.

        Raises:
            Refused: 404, it comes from another page or under a name that is not this machine's.
        """
        self._refuse_strangers(request)
        given = request.cookies.get(COOKIE, "")
        return given if self._holds(given) else self._make("guest" if self._token else "operator")

    def knows(self, cookie: str) -> bool:
        """Whether it is an operator's."""
        return cookie.startswith("operator.")

    def proof(self, cookie: str) -> str:
        """What each form carries; nobody who cannot read the page knows it."""
        return self._sign("form:" + cookie)

    async def form(self, request: Request, *, login: bool = False) -> tuple[str, dict[str, str]]:
        """The cookie and the fields of a POST that may do what it asks for.

        Args:
            login: it is the login, which a guest may send.

        Raises:
            Refused: it may not, or the body is not a small form.
        """
        cookie = self.cookie(request)
        fields = await _fields(request)
        proof = fields.pop("proof", "")
        same = hmac.compare_digest(self.proof(cookie).encode(), proof.encode("utf-8", "replace"))
        if not same or request.cookies.get(COOKIE) != cookie:
            raise Refused("this form is from another session; load the page again", status=403, code="admin")
        if not login and not self.knows(cookie):
            raise Refused("log in first", status=403, code="admin")
        return cookie, fields

    def login(self, token: str) -> str | None:
        """A cookie for who knows the token."""
        expected = (self._token or "").encode()
        return self._make("operator") if hmac.compare_digest(token.encode("utf-8", "replace"), expected) else None

    def keep(self, request: Request, response: Response, cookie: str) -> Response:
        """Let the browser have the cookie."""
        response.set_cookie(
            COOKIE, cookie, max_age=LASTS_S, path=PATH, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    def _refuse_strangers(self, request: Request) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        name = urlsplit("//" + host).hostname
        if foreign or (self._token is None and name not in ("localhost", "127.0.0.1", "::1")):
            raise Refused(f"{request.method} {request.url.path}: Not Found", status=404, code="not_found")

    def _make(self, role: Role) -> str:
        value = f"{role}.{int(time.time()) + LASTS_S}.{secrets.token_hex(16)}"
        return f"{value}.{self._sign(value)}"

    def _holds(self, cookie: str) -> bool:
        value, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._sign(value).encode(), signature.encode("utf-8", "replace")):
            return False
        return int(value.split(".")[1]) > time.time()

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form; of several with one name the last.

    Raises:
        Refused: it is no form, or a large one.
    """
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared != "application/x-www-form-urlencoded":
        raise Refused("a form must come as application/x-www-form-urlencoded", status=415, code="admin")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise Refused(f"a form must have <= {MAX_FORM} bytes", status=413, code="admin")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def number(fields: Mapping[str, str], name: str, least: float, most: float) -> float | None:
    """A field's number; None if it is empty or ``auto``.

    Raises:
        Refused: it is no number, or out of range.
    """
    text = fields.get(name, "").strip()
    if text in ("", "auto"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        message = f"`{name}` must be a number from {least:g} to {most:g}, or empty. Given: {text[:40]}"
        raise Refused(message, status=422, code="admin")
    return value
