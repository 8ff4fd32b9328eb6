"""Logging in and out."""

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import Response

from optimus_server.api.admin.access import COOKIE
from optimus_server.api.admin.office import address_of, office_of
from optimus_server.api.admin.views import render, to

logger = logging.getLogger(__name__)

WRONG_TOKEN_S = 0.5


async def login_page(request: Request) -> Response:
    """GET /admin/login."""
    access = office_of(request).access
    cookie = access.cookie(request)
    if access.knows(cookie):
        return access.keep(request, to("/admin"), cookie)
    return access.keep(request, render("login.html.j2", proof=access.proof(cookie), wrong=False), cookie)


async def login(request: Request) -> Response:
    """POST /admin/login, with ``token``."""
    office = office_of(request)
    cookie, fields = await office.access.form(request, login=True)
    operator = office.access.login(fields.get("token", "")) if office.access.needs_login else cookie
    if operator:
        office.record(request, "login")
        return office.access.keep(request, to("/admin"), operator)
    logger.warning("Admin: wrong token [by %s]", address_of(request))
    await asyncio.sleep(WRONG_TOKEN_S)
    return render("login.html.j2", status=403, proof=office.access.proof(cookie), wrong=True)


async def logout(request: Request) -> Response:
    """POST /admin/logout."""
    office = office_of(request)
    await office.access.form(request)
    office.record(request, "logout")
    response = to("/admin")
    response.delete_cookie(COOKIE, path="/admin")
    return response
