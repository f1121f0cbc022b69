"""Pages of the local CRM: they show its content and the runs that wrote it. Over HTTP, and in a browser if there is one."""

import html
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Response, request

from sandbox.local_crm.server import LocalCrm
from sandbox.local_crm.store.profiles import CrmStore
from sandbox.local_crm.store.segments import SEGMENTS
from tests.support.crm.local_crm import START, Clock, page, post, scored, serving, track

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crm(tmp_path: Path, clock: Clock) -> Iterator[LocalCrm]:
    with serving(tmp_path, clock) as server:
        yield server


def test_history_keeps_what_changed_newest_first(crm: LocalCrm, clock: Clock) -> None:
    track(crm, {"external_id": "ada", "a": 1, "same": "x"})
    clock.forward(60)
    track(crm, {"external_id": "ada", "a": True, "same": "x"})  # 1 and true differ, though Python says they are equal
    track(crm, {"external_id": "ada", "a": None})
    found = [(change.field, change.before, change.after) for change in crm.store.history("ada")]
    assert found[:2] == [("a", True, None), ("a", 1, True)]
    assert sorted(found[2:], key=str) == [("a", None, 1), ("same", None, "x")]
    assert crm.store.history("ada")[0].received_at == START + timedelta(seconds=60)
    assert crm.store.writes_per_field() == {"a": 3, "same": 2}


def test_every_segment_holds_whom_its_rule_says(crm: LocalCrm) -> None:
    held = scored("holdout", voucher_eligible=False, voucher_reason="holdout", experiment_arm="holdout")
    track(crm, scored("granted"), held, scored("finished"), scored("medium", churn_risk_band="medium"))
    track(crm, {"external_id": "low", "churn_risk_band": "low", "voucher_eligible": "true"}, {"external_id": "blank"})
    track(crm, scored("ended", voucher_valid_until="2026-11-23T09:00:00Z"))  # valid until a quarter of a second ago
    track(crm, scored("reminder", churn_risk_band="medium", voucher_eligible=False))
    track(crm, scored("reminded-not", churn_risk_band="medium", voucher_eligible=False, experiment_arm="holdout"))
    done = {"churn_probability": None, "churn_risk_band": None, "voucher_eligible": False}
    track(crm, {"external_id": "finished", **done})
    members = {
        "high-risk-voucher": ["granted"],
        "reminder": ["reminder"],
        "holdout": ["holdout", "reminded-not"],
        "voucher-eligible": ["granted", "medium"],
        "voucher-withdrawn": ["finished"],
        "medium-risk": ["medium", "reminded-not", "reminder"],
        "low-risk": ["low"],
        "no-longer-scored": ["finished"],
    }
    found = {slug: sorted(key for key, _ in crm.store.segment(slug, limit=9)) for slug in members}
    assert found == members
    assert crm.store.segment_counts() == {slug: len(names) for slug, names in members.items()}
    assert crm.store.totals() == {"profiles": 9, "voucher_eligible": 2, "high_risk": 3, "in_holdout": 2}


def test_the_segments_are_those_of_marketings_page(crm: LocalCrm) -> None:
    text = (Path(__file__).parents[3] / "docs" / "marketing" / "segments.md").read_text()
    told = text.split("## The three segments")[1].split("Four traps")[0]
    titles = [segment.title for segment in SEGMENTS.values() if segment.is_for_campaigns]
    assert titles == re.findall(r"^\*\*(.+?)\*\*", told, re.MULTILINE)
    shown = re.sub(r"<[^>]+>", "", page(crm, "/")).split("Other views")[0]
    assert [title for title in titles if title in shown] == titles


def test_the_clock_stands_where_the_demo_left_it_until_a_run_by_the_real_one_writes(
    tmp_path: Path, clock: Clock
) -> None:
    demo = datetime(2026, 6, 22, 20, tzinfo=UTC)
    with serving(tmp_path) as crm:
        crm.stand_at(demo)
        track(crm, scored("ada", voucher_valid_until="2026-06-29T20:00:00Z"), run_id="demo")
    with serving(tmp_path, clock) as crm:  # `make crm`, months later
        assert crm.store.history("ada")[0].received_at == demo
        assert crm.store.totals()["voucher_eligible"] == 1
        home = page(crm, "/")
        assert "as of 22 Jun 2026, 20:00 UTC, the clock of the demo or replay" in home
        assert "as of 22 Jun 2026, 20:00 UTC" in page(crm, "/segments/high-risk-voucher")
        assert "May be offered a voucher until 29 Jun 2026, 20:00 UTC" in page(crm, "/profiles/ada")
        track(crm, scored("bob"))
        home = page(crm, "/")
        assert "as of 23 Nov 2026, 09:00 UTC.</p>" in home
        assert crm.store.totals()["voucher_eligible"] == 1
        assert [key for key, _ in crm.store.segment("voucher-eligible", limit=9)] == ["bob"]
        assert "The voucher ended 29 Jun 2026, 20:00 UTC." in page(crm, "/profiles/ada")


def test_the_overview_shows_counts_distribution_and_latest_writes(crm: LocalCrm) -> None:
    rows = [scored(f"user-{number}", churn_probability=number % 10 / 10 + 0.05) for number in range(1_234)]
    for start in range(0, len(rows), 75):
        track(crm, *rows[start : start + 75])
    assert crm.store.probability_bins() == [124] * 4 + [123] * 6
    html = page(crm, "/")
    assert "Local CRM" in html
    assert "<dd>1,234<small>" in html
    assert "user-1233" in html
    assert "granted" in html


def test_a_probability_between_two_tenths_counts_in_the_upper_one(crm: LocalCrm) -> None:
    edges = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, "not a number", None]
    track(crm, *[{"external_id": f"u{number}", "churn_probability": edge} for number, edge in enumerate(edges)])
    assert crm.store.probability_bins() == [1] * 9 + [2]


def test_an_empty_crm_has_an_overview_too(crm: LocalCrm) -> None:
    assert "Nothing written yet" in page(crm, "/")
    assert "No users are in this segment" in page(crm, "/segments/low-risk")


def test_a_segment_is_shown_in_pages_of_50(crm: LocalCrm) -> None:
    for start in (0, 30):
        track(crm, *[scored(f"u{number:03}", churn_probability=number / 100) for number in range(start, start + 30)])
    first, last = page(crm, "/segments/high-risk-voucher"), page(crm, "/segments/high-risk-voucher?page=2")
    assert "u059" in first
    assert "u009" not in first
    assert "u009" in last
    assert page(crm, "/segments/high-risk-voucher?page=99") == last
    assert page(crm, "/segments/high-risk-voucher?page=x") == first


def test_a_profile_page_tells_values_meaning_and_history(crm: LocalCrm) -> None:
    track(crm, scored("a/b//c d"))
    track(crm, {"external_id": "a/b//c d", "voucher_eligible": False, "voucher_reason": "finished"})
    html = page(crm, "/profiles/a/b//c%20d")
    for text in ("0.8421", "Chance that the user never finishes", "Finished meanwhile", "30 Nov 2026, 09:00 UTC"):
        assert text in html
    assert requests.get(crm.url + "/profiles", params={"external_id": "a/b//c d"}, timeout=10).text == html


@pytest.mark.parametrize("path", ["/profiles/%3Cb%3Enobody", "/segments/%3Cb%3Enone", "/nowhere"])
def test_what_is_not_there_is_a_friendly_404(crm: LocalCrm, path: str) -> None:
    response = requests.get(crm.url + path, timeout=10)
    assert response.status_code == 404
    assert "Back to the overview" in response.text
    assert "<b>n" not in response.text


def test_whatever_the_attributes_are_pages_show_them_as_text(crm: LocalCrm) -> None:
    odd: tuple[object, ...] = (EVIL, [EVIL], {EVIL: EVIL}, 5, True, [[None, 1.5]], "")
    fields = [*scored("x"), "churn_scored_at", EVIL]
    for number, value in enumerate(odd):
        track(crm, dict.fromkeys(fields, value) | {"external_id": f"{number}{EVIL}", "churn_risk_band": "low"})
    paths = ["/", "/segments/low-risk", *(f"/profiles/{number}{EVIL}" for number in range(len(odd)))]
    for path in paths:
        html = page(crm, path)
        assert "<script" not in html
        assert "alert(1)" in html


# Which run wrote what


def test_a_run_is_told_by_its_requests_and_counted(crm: LocalCrm, clock: Clock) -> None:
    track(crm, {"external_id": "ada", "a": 1, "b": 1}, {"external_id": "bob", "a": 1}, run_id="00000007-ab")
    clock.forward(60)
    track(crm, {"external_id": "ada", "a": 1}, {"external_id": "cyd", "a": 1}, run_id="00000007-ab")
    track(crm, {"external_id": "ada", "a": 2})
    clock.forward(60)
    post(crm, "/users/delete", {"external_ids": ["bob", "who"]}, run_id="00000008-cd")
    later, earlier = crm.store.runs(9)
    assert (earlier.run_id, earlier.first_at, earlier.last_at) == ("00000007-ab", START, START + timedelta(seconds=60))
    assert (earlier.profiles, earlier.writes, earlier.attributes, earlier.deleted) == (3, 4, 5, 0)
    assert (later.run_id, later.profiles, later.writes, later.attributes, later.deleted) == ("00000008-cd", 0, 0, 0, 1)
    assert [
        (each.external_id, each.writes, each.attributes, each.fields)
        for each in crm.store.written_by("00000007-ab", limit=9)
    ] == [
        ("ada", 2, 3, ["a", "b"]),
        ("cyd", 1, 1, ["a"]),
    ]
    assert [(change.field, change.after, change.run_id) for change in crm.store.history("ada")] == [
        ("a", 2, None),
        ("a", 1, "00000007-ab"),
        ("b", 1, "00000007-ab"),
    ]


@pytest.mark.parametrize("agent", ["python-requests/2.32", "winback", "winback ()", "winback (a", "rewinback (a)"])
def test_a_request_that_names_no_run_is_nobody_s(crm: LocalCrm, agent: str) -> None:
    headers = {"Authorization": "Bearer test-key", "User-Agent": agent}
    requests.post(
        crm.url + "/users/track", json={"attributes": [{"external_id": "ada", "a": 1}]}, headers=headers, timeout=10
    )
    assert crm.store.profile("ada") == {"a": 1}
    assert crm.store.runs(9) == []


def test_of_a_deleted_user_only_the_count_is_left(tmp_path: Path) -> None:
    with serving(tmp_path) as crm:
        track(crm, scored("ada-lovelace"), run_id="7")
        post(crm, "/users/delete", {"external_ids": ["ada-lovelace"]}, run_id="8")
        assert crm.store.count_deleted() == 1
        assert "1 user deleted so far" in page(crm, "/")
        assert "None of the users that it wrote exists any more" in page(crm, "/runs/7")
        for path in ("/", "/runs", "/runs/7", "/runs/8"):
            assert "lovelace" not in page(crm, path)
        dump = "\n".join(crm.store.database.connection.iterdump())
    assert "lovelace" not in dump


def test_pages_lead_from_a_run_to_whom_it_wrote_and_back(crm: LocalCrm) -> None:
    for start in (0, 30):
        track(crm, *[scored(f"u{number:03}") for number in range(start, start + 30)], run_id="00000007-ab")
    track(crm, scored("u000"), run_id="00000007-ab")
    assert 'href="/runs/00000007-ab"' in page(crm, "/")
    assert 'href="/runs/00000007-ab"' in page(crm, "/profiles/u000")
    first, last = page(crm, "/runs/00000007-ab"), page(crm, "/runs/00000007-ab?page=2")
    assert "1 write went to a user that this run had written before" in first
    assert 'href="/profiles/u000"' in first
    assert "of 60 · page 1 of 2" in first
    assert 'href="/profiles/u059"' in last
    assert 'href="/profiles/u000"' not in last


def test_the_overview_shows_the_last_8_runs_and_leads_to_all(crm: LocalCrm, clock: Clock) -> None:
    users = [f"u{number}" for number in range(12)]  # the 12 latest writes are shown too, and are all of the last run
    for number in range(9):
        track(crm, *[{"external_id": user, "a": number} for user in users], run_id=f"run-{number}")
        clock.forward(1)
    assert "run-0" not in page(crm, "/")
    assert "All 9 runs" in page(crm, "/")
    assert "run-0" in page(crm, "/runs")


def test_a_file_from_before_runs_were_told_apart_keeps_its_profiles_and_history(tmp_path: Path) -> None:
    before = sqlite3.connect(tmp_path / "crm.db")
    before.executescript(
        """
        create table profiles (external_id text primary key, attributes text not null, updated_at text not null);
        create table changes (
          id integer primary key, external_id text not null, received_at text not null, field text not null,
          before text, after text
        );
        create index changes_by_user on changes (external_id, field);
        create table field_writes (field text primary key, written integer not null);
        insert into profiles values ('ada', '{"voucher_eligible":false}', '2026-11-01T11:00:00+00:00');
        insert into changes (external_id, received_at, field, before, after) values
          ('ada', '2026-11-01T10:00:00+00:00', 'voucher_eligible', null, 'true'),
          ('ada', '2026-11-01T10:00:00+00:00', 'x "y"', null, '["\\n"]'),
          ('ada', '2026-11-01T11:00:00+00:00', 'x "y"', '["\\n"]', null),
          ('ada', '2026-11-01T11:00:00+00:00', 'voucher_eligible', 'true', '5'),
          ('ada', '2026-11-01T11:00:00+00:00', 'voucher_eligible', '5', 'false');
        insert into field_writes values ('voucher_eligible', 3);
        """
    )
    before.close()
    for _ in range(2):
        store = CrmStore(tmp_path / "crm.db")
        history = [(change.field, change.before, change.after, change.run_id) for change in store.history("ada")]
        assert history[0] == ("voucher_eligible", 5, False, None)
        assert sorted(history[1:3]) == [("voucher_eligible", True, 5, None), ('x "y"', ["\n"], None, None)]
        assert sorted(history[3:]) == [("voucher_eligible", None, True, None), ('x "y"', None, ["\n"], None)]
        assert [key for key, _ in store.segment("voucher-withdrawn", limit=9)] == ["ada"]
        assert store.writes_per_field() == {"voucher_eligible": 3}
        store.close()


# In a browser

# Loads each page at each width in a frame, and records layout problems.
HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const seen = [];
const shade = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
function ground(element) {
  for (; element; element = element.parentElement) {
    const color = shade(getComputedStyle(element).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
}
function look(frame, path, width) {
  const page = frame.contentDocument, found = {path, width, text: page.body.innerText, wide: [], faint: []};
  found.scripts = page.scripts.length;
  found.height = page.body.scrollHeight;
  found.lines = [...page.querySelectorAll('a[href^="/runs/"]')].filter(link => link.offsetParent)
    .map(link => link.getClientRects().length);
  found.ground = ground(page.body);
  found.links = [...page.links].map(link => link.href);
  for (const element of page.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    const may = element.closest(".hidden, .track, .pill") || getComputedStyle(element).display.startsWith("inline");
    const isWide = box.right > width + 1 || element.scrollWidth > element.clientWidth + 1;
    if (isWide && !may) found.wide.push(element.outerHTML.slice(0, 80));
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (own && box.width) {
      const [a, b] = [light(shade(getComputedStyle(element).color)), light(ground(element))];
      if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5) found.faint.push(element.outerHTML.slice(0, 80));
    }
  }
  seen.push(found);
}
const todo = TODO;
function next() {
  if (!todo.length) { document.body.textContent = JSON.stringify(seen); return; }
  const [url, path, width] = todo.shift(), frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.style.border = "0"; frame.src = url + path;
  frame.onload = () => { look(frame, path, width); frame.remove(); next(); };
  document.body.append(frame);
}
next();
</script>"""


def offer_harness(crm: LocalCrm, paths: list[str]) -> None:
    """Serve the harness from the pages' own origin, so that it can inspect them. No other page may run scripts."""

    def harness() -> str:
        todo = [("", path, width) for path in paths for width in (1280, 390)]
        return HARNESS.replace("TODO", json.dumps(todo).replace("<", "\\u003c"))

    def allow(response: Response) -> Response:
        policy = response.headers.pop("Content-Security-Policy")
        if request.path != "/harness":  # only the harness may embed a page
            response.headers["Content-Security-Policy"] = policy.replace(
                "frame-ancestors 'none'", "frame-ancestors 'self'"
            )
        return response

    crm.app.add_url_rule("/harness", view_func=harness)
    crm.app.after_request_funcs[None].insert(0, allow)  # the first one runs last


def browse(folder: Path, crm: LocalCrm, *options: str) -> list[dict[str, Any]]:
    """Let a browser check the pages at widths of 1280 and 390 pixels."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    fixed = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    more = "--disable-component-update --disable-sync --disable-dev-shm-usage --dump-dom"
    dump = subprocess.run(
        [
            browser,
            *fixed.split(),
            *more.split(),
            *options,
            "--window-size=1400,900",
            "--virtual-time-budget=60000",  # waits for what is loading; takes no time by itself
            f"--user-data-dir={folder / 'browser'}",
            f"{crm.url}/harness",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    body = re.search(r"<body>(.*)</body>", dump, re.DOTALL)
    assert body, dump[-300:]
    seen: list[dict[str, Any]] = json.loads(html.unescape(body[1]))
    return seen


def test_the_overview_is_short_on_a_phone_and_breaks_no_run_s_name(tmp_path: Path, crm: LocalCrm, clock: Clock) -> None:
    offer_harness(crm, ["/"])
    for number in range(1, 13):
        run_id = f"{number:08d}-20260622T{number + 8:02d}0000Z-0a1b2c3d"
        track(crm, *[scored(f"u-{n:07d}", churn_probability=number / 20) for n in range(9)], run_id=run_id)
        clock.forward(1)
    wide, narrow = browse(tmp_path, crm)
    assert narrow["height"] < 4_500
    assert narrow["text"].count("Epoch ") == 6
    assert wide["text"].count("Epoch ") == 20
    assert "Epoch 12, 22 Jun 20:00" in wide["text"]
    assert "All 12 runs" in narrow["text"]
    assert "0a1b2c3d" not in wide["text"]
    assert set(wide["lines"]) == {1}


@pytest.mark.parametrize(("options", "ground"), [([], [244, 245, 250]), (["--force-dark-mode"], [16, 18, 26])])
def test_in_a_browser_every_page_is_readable_whole_and_leads_on(
    tmp_path: Path, crm: LocalCrm, options: list[str], ground: list[int]
) -> None:
    paths = ["/", "/segments/voucher-eligible", "/runs", f"/runs/{'x' * 200}", f"/profiles/{'u' * 400}", "/nowhere"]
    paths += [f"/profiles/{EVIL}//a b", "/profiles/user-000"]
    offer_harness(crm, paths)
    track(crm, *[scored(f"user-{number:03}") for number in range(60)], run_id="00000007-ab")
    odd: dict[str, object] = {
        EVIL: EVIL,
        "k" * 300: "v" * 3_000,
        "many": ["word " * 60] * 9,
        "deep": {EVIL: [None, 1.5]},
    }
    long = {"churn_reasons": ["z" * 500, EVIL], "voucher_reason": "r" * 300, "experiment_arm": "a" * 300}
    track(crm, scored("u" * 400, **odd, **long), scored(f"{EVIL}//a b"), run_id="x" * 200)
    track(
        crm, scored(f"{EVIL}//a b", **odd), scored("user-000", voucher_eligible=False), run_id=EVIL.replace("(1)", "")
    )
    seen = browse(tmp_path, crm, *options)
    assert len(seen) == 2 * len(paths)
    stumbled = [
        (each["path"][:40], each["width"], each["wide"], each["faint"])
        for each in seen
        if each["wide"] or each["faint"]
    ]
    assert stumbled == []
    assert {tuple(each["ground"]) for each in seen} == {tuple(ground)}
    assert {each["scripts"] for each in seen} == {0}
    assert EVIL in next(each["text"] for each in seen if each["path"].startswith("/profiles/<script>"))
    assert "Run 00000007-ab" not in seen[0]["text"]
    links = {link for each in seen for link in each["links"]}
    assert {requests.get(link, timeout=10).status_code for link in links} == {200}
    assert f"{crm.url}/runs/00000007-ab" in links


@pytest.mark.parametrize(
    ("run_id", "shown"),
    [
        ("00000003-20260622T200000Z-0a1b2c3d", "Epoch 3, 22 Jun 20:00"),
        ("00000012-20260101T000000Z-ffffffff", "Epoch 12, 1 Jan 00:00"),
        ("00000000-backfill-0a1b2c3d", "00000000-backfill-0a1b2c3d"),
        ("a run of mine", "a run of mine"),
        ("00000003-20269922T200000Z-0a1b2c3d", "00000003-20269922T200000Z-0a1b2c3d"),
    ],
)
def test_a_run_is_called_by_its_epoch_and_hour(crm: LocalCrm, run_id: str, shown: str) -> None:
    track(crm, scored("ada"), run_id=run_id)
    assert f'title="{run_id}">{shown}</a>' in page(crm, "/")
