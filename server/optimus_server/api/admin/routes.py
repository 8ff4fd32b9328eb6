"""Where the admin pages are."""

from starlette.routing import Route

from optimus_server.api.admin.acts import cancel, knobs, switch
from optimus_server.api.admin.detail import detail, replay
from optimus_server.api.admin.door import login, login_page, logout
from optimus_server.api.admin.history import audit, export, requests
from optimus_server.api.admin.live import events, live
from optimus_server.api.admin.views import Endpoint, asset, readable


def _get(path: str, endpoint: Endpoint) -> Route:
    return Route(path, readable(endpoint), methods=["GET"])


def _post(path: str, endpoint: Endpoint) -> Route:
    return Route(path, readable(endpoint), methods=["POST"])


ROUTES = [
    _get("/admin", live),
    _get("/admin/events", events),
    _get("/admin/requests", requests),
    _get("/admin/requests.csv", export),
    _get("/admin/requests/{name:path}", detail),
    _get("/admin/replay/{name:path}", replay),
    _get("/admin/audit", audit),
    _get("/admin/assets/{name}", asset),
    _get("/admin/login", login_page),
    _post("/admin/login", login),
    _post("/admin/logout", logout),
    _post("/admin/knobs", knobs),
    _post("/admin/pause", switch),
    _post("/admin/drain", switch),
    _post("/admin/cancel", cancel),
]
