"""The admin pages on the request log: filters, pages, CSV, one request, and the trail of what operators did."""

import csv
import io
import re
import time
from itertools import pairwise

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from optimus_server.api.admin.curves import HIGH, WIDE, curves
from optimus_server.api.admin.detail import phases
from optimus_server.store.queries import Filter, Log
from optimus_server.store.records import RequestRecord
from tests.api.test_admin import TOKEN, act
from tests.store.samples import HOUR_US, action, load, recording, request, settled, trace

EVIL = "<script>alert(1)</script>"
BROWSER = {"accept": "text/html,*/*"}


@pytest.fixture
def now_us():
    return time.time_ns() // 1000


@pytest.fixture
def recorder(file):
    with recording(str(file), log_text="full") as found:
        yield found


@pytest.fixture
def client(scripted, recorder):
    """A browser at a server whose log is the recorder's."""
    live = scripted(recorder=recorder)
    with httpx.Client(base_url=live.url, timeout=10) as found:
        yield found


@pytest.fixture
def filled(recorder, now_us):
    """120 requests, one a minute and each a ms slower than the one after; every tenth was refused."""
    refused = {"status": 429, "error_type": "overloaded", "finish_reason": None, "prompt": None, "trace": ()}
    for number in range(120):
        common = {"created_us": now_us - number * 60 * 10**6, "client": "ab"[number % 2], "total_ms": float(number)}
        recorder.submit(request(number, **common | (refused if number % 10 == 9 else {})))
    recorder.submit(request(500, created_us=now_us - 49 * HOUR_US, endpoint="/v1/completions"))
    settled(recorder)


def numbers(page):
    """Of the requests in a page's table."""
    return [int(number) for number in re.findall(r">request-(\d+)</a>", page)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", list(range(50))),
        ("period=1h", list(range(50))),
        ("period=1h&status=failed", [9, 19, 29, 39, 49, 59]),
        ("status=429&min_ms=60", [69, 79, 89, 99, 109, 119]),
        ("client=b&finish=length&min_ms=111.5", [113, 115, 117]),
        ("period=7d&endpoint=/v1/completions", [500]),
        ("endpoint=/v1/completions", []),
        ("period=all&min_ms=100", [*range(100, 120), 500]),
    ],
)
def test_filters(client, filled, query, expected):
    assert numbers(client.get(f"/admin/requests?{query}").text) == expected


def test_older_pages_lose_nothing_and_keep_the_filters(client, filled):
    seen, path = [], "/admin/requests?client=a&period=24h"
    while path:
        page = client.get(path).text
        seen += numbers(page)
        older = re.search(r'href="(\?[^"]+)" rel="next"', page)
        path = "/admin/requests" + older[1].replace("&amp;", "&") if older else None
    assert seen == list(range(0, 120, 2))


@pytest.mark.parametrize(
    "query", ["period=1y", "status=x", "status=99", "min_ms=-1", "min_ms=nan", "before=x", "before=" + "z" * 22]
)
def test_nonsense_is_refused_by_name(client, query):
    answer = client.get(f"/admin/requests?{query}")
    assert answer.status_code == 422
    assert f"`{query.split('=')[0]}`" in answer.json()["error"]
    page = client.get(f"/admin/requests?{query}", headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert "content-security-policy" in page.headers


def test_a_request_is_opened_by_its_id(client, filled):
    answer = client.get("/admin/requests", params={"id": " request-7 "})
    assert answer.headers["location"] == "/admin/requests/request-7"
    assert client.get("/admin/requests", params={"id": "a/b?c"}).headers["location"] == "/admin/requests/a%2Fb%3Fc"


def test_the_load_of_a_period_is_drawn(client, recorder, now_us):
    assert "h-load" not in client.get("/admin/requests").text
    # Ten minutes, so that a point is the mean of two or three seconds.
    for second in range(600):
        recorder.submit(load(t_us=now_us - second * 10**6, tok_s=300.0 if second == 7 else 100.0))
    settled(recorder)
    page = client.get("/admin/requests?period=1h").text
    assert re.search(r"tokens/s <span>mean <b>10[01]</b> · max (167|200|233|300)<", page)
    assert page.count("<figure>") == 6
    assert "h-load" not in client.get("/admin/requests?period=all").text


def samples(*points):
    """Load samples at some seconds, with so many requests running."""
    empty = dict.fromkeys(("tok_s", "waiting", "step_ms_p50", "chunk_p50", "kv"))
    return [empty | {"t_us": second * 10**6, "running": running} for second, running in points]


def test_curves_are_lines_with_gaps():
    [curve] = curves(samples((0, 0), (10, 2), (20, 4), (1000, 4)), 0, WIDE * 10**7)
    assert (curve.name, curve.mean, curve.most) == ("running", 2.5, 4)
    assert curve.path == f"M0.0 {HIGH - 1}.0h1L1.0 {HIGH / 2:.1f}L2.0 1.0M100.0 1.0h1"
    # Of a period of a minute a second is wide, and still no gap.
    [curve] = curves(samples((0, 4), (1, 4), (9, 4)), 0, 60 * 10**6)
    assert curve.path == "M0.0 1.0h1L4.0 1.0M36.0 1.0h1"


def test_csv_is_what_the_log_holds(client, filled, file, recorder, now_us):
    recorder.submit(
        request(600, created_us=now_us + 1, user_agent='=HYPERLINK("http://evil")', request_id="+1", seed=5)
    )
    settled(recorder)
    answer = client.get("/admin/requests.csv?status=failed")
    assert answer.headers["content-disposition"] == 'attachment; filename="requests.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    with Log(str(file)) as log:
        wanted = log.requests(Filter(failed=True), limit=1000)
    assert [row["id"] for row in rows] == [row["id"] for row in wanted]
    assert [float(row["total_ms"]) for row in rows] == [row["total_ms"] for row in wanted]
    rows = list(csv.DictReader(io.StringIO(client.get("/admin/requests.csv?period=all").text)))
    assert len(rows) == 122
    # What a spreadsheet would run stays text.
    assert (rows[0]["user_agent"], rows[0]["request_id"]) == ('\'=HYPERLINK("http://evil")', "'+1")
    assert len(rows[0]["prompt_hmac"]) == 64


def test_a_request_s_page_and_replay(client, recorder, now_us):
    recorder.submit(
        request(1, created_us=now_us, request_id=EVIL, prompt=EVIL, output=EVIL, pieces=(10, 10, 5), params={"a": EVIL})
    )
    settled(recorder)
    page = client.get(f"/admin/requests/{EVIL}")
    assert page.status_code == 200
    assert EVIL not in page.text
    assert page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
    assert not re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page.text)
    [source] = re.findall(r'data-source="([^"]+)"', page.text)
    film = client.get(source).json()
    steps = trace()
    assert [step["positions"] for step in film["steps"]] == [list(step.positions) for step in steps]
    assert [step["reason"] for step in film["steps"]] == [step.reason for step in steps]
    assert (film["first"], film["last"], film["words"][:3]) == (7, 13, [EVIL[:10], EVIL[10:20], EVIL[20:]])


def test_the_waterfall_adds_up_to_the_whole(client, recorder, now_us):
    recorder.submit(request(1, created_us=now_us, total_ms=120.0))
    settled(recorder)
    with Log(str(recorder.url.database)) as log:
        [row] = log.requests()
    found = phases(row)
    assert [phase.name for phase in found] == ["validation", "queue", "prefill", "decode", "delivery"]
    assert [phase.ms for phase in found] == [1.0, 2.0, 4.5, 85.5, 27.0]
    assert sum(phase.width for phase in found) == pytest.approx(1000)
    for before, after in pairwise(found):
        assert after.at == pytest.approx(before.at + before.width)


def test_the_waterfall_of_a_refused_request_is_empty(client, recorder, now_us):
    record = RequestRecord(request_id="no", created_us=now_us, endpoint="/generate", status=422, total_ms=1.0)
    recorder.submit(record)
    settled(recorder)
    page = client.get("/admin/requests/no").text
    assert "It never reached the engine." in page
    assert "data-source" not in page


def test_what_the_log_does_not_have_is_said(client):
    assert client.get("/admin/requests/nobody").status_code == 404
    assert "the log has no such request" in client.get("/admin/requests/nobody", headers=BROWSER).text


def test_without_a_log_the_pages_say_so_and_live_works(scripted):
    live = scripted()
    for path in ("/admin/requests", "/admin/requests.csv", "/admin/requests/x", "/admin/replay/x", "/admin/audit"):
        answer = live.get(path)
        assert (answer.status_code, "--log-db off" in answer.json()["error"]) == (404, True)
    assert live.get("/admin").status_code == 200


def test_a_database_that_does_not_answer_is_a_503(client, monkeypatch):
    def fail(*_args, **_options):
        raise OperationalError("SELECT secret", {}, Exception("disk I/O error"))

    monkeypatch.setattr(Log, "requests", fail)
    answer = client.get("/admin/requests")
    assert answer.status_code == 503
    assert answer.json()["error"] == "the request log cannot be read: disk I/O error"


def test_all_of_it_asks_for_the_token(scripted, recorder):
    live = scripted(recorder=recorder, admin_token=TOKEN)
    for path in ("/admin/requests", "/admin/requests/x", "/admin/audit"):
        assert live.get(path).headers["location"] == "/admin/login"
    for path in ("/admin/requests.csv", "/admin/replay/x"):
        assert live.get(path).status_code == 403


def test_what_operators_did_outlives_the_server(scripted, file):
    for name in ("one", "two"):
        with recording(str(file), name=name) as recorder:
            live = scripted(recorder=recorder)
            with httpx.Client(base_url=live.url) as client:
                assert act(client, "/admin/knobs", chunk="4").status_code == 303
                assert act(client, "/admin/pause", on="1").status_code == 303
                settled(recorder)
                page, trail = client.get("/admin").text, client.get("/admin/audit").text
    for text in (page, trail):
        assert text.count(">chunk 4, target none<") == 2
        assert text.count("<td>pause</td>") == 2
        assert text.index("<td>pause</td>") < text.index("<td>set</td>")
    assert "127.0.0.1" in trail


def test_the_trail_comes_page_by_page(client, recorder):
    for number in range(60):
        recorder.submit(action(number))
    settled(recorder)
    first = client.get("/admin/audit").text
    older = re.search(r'href="(\?before=\d+)" rel="next"', first)[1]
    second = client.get("/admin/audit" + older).text
    seen = [int(number) for page in (first, second) for number in re.findall(r"chunk (\d+)<", page)]
    assert seen == list(range(59, -1, -1))
