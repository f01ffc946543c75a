"""What the console tells those who run it: health with the projector's state, and metrics by page without content."""

import asyncio
import contextlib

from sqlalchemy import create_engine, event

from safeguard_streams.console.projector import Projector
from safeguard_streams.console.web import upkeep
from safeguard_streams.console.web.app import build
from safeguard_streams.runtime import metrics
from tests.unit.console.web.conftest import Browser


def test_each_answer_is_measured_by_page_and_status_and_no_id_is_kept(browser, monkeypatch):
    measured = []
    monkeypatch.setattr(metrics.Metric, "record", lambda which, value, about: measured.append((which, value, about)))
    ann = browser("ann", "reviewer")
    for url in ("/item?id=post-000", "/item?id=none", "/audit", "/none"):
        ann.get(url)
    assert {which for which, *_ in measured} == {metrics.ANSWERED}
    assert all(value > 0 for _, value, _ in measured)
    assert [tuple(about.values()) for *_, about in measured] == [
        ("GET", "/item", "200"),
        ("GET", "/item", "404"),
        ("GET", "/audit", "403"),
    ]
    assert all(tuple(about) == metrics.ANSWERED.attributes for *_, about in measured)


def test_requests_that_the_database_did_not_serve_are_counted(current, monkeypatch):
    counted = []
    monkeypatch.setattr(metrics.Metric, "add", lambda which, count, about: counted.append((which, count, about)))
    ann = Browser(build(current, create_engine("sqlite:////nonexistent-folder/console.db")), "ann", "admin")
    assert ann.get("/queue").status_code == 503
    assert counted == [(metrics.DATABASE_FAILURES, 1, {"stage": "console"})]


def test_health_names_the_state_of_the_projector_in_the_process(filled, current):
    projector = Projector(current, filled)
    ready = Browser(build(current, filled, projector), "ann", "admin").get("/health/ready")
    assert ready.status_code == 200, "pages need no projector"
    assert ready.json()["projector"] == projector.state()
    assert ready.json()["projector"]["caught_up"] is False


def test_pages_say_that_the_projector_has_not_read_all_yet(filled, current):
    projector = Projector(current, filled)
    ann, said = Browser(build(current, filled, projector), "ann", "admin"), "is still reading the topics"
    assert said in ann.get("/replays/new").text
    projector._stands_by = True  # another process projects
    assert said not in ann.get("/replays/new").text
    projector._stands_by, projector.caught_up = False, True
    assert said not in ann.get("/replays/new").text


async def test_upkeep_waits_for_the_tables(current, caplog):
    console = build(current, create_engine("sqlite://")).state.console
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await upkeep.run(console)
    assert not caplog.records


def test_the_queue_is_read_in_the_order_of_an_index(browser, filled):
    """However many items wait, a page reads its own rows only, and sorts none."""
    statements = []
    event.listen(filled, "before_cursor_execute", lambda *given: statements.append(given[2:4]))
    assert browser("ann", "reviewer").get("/queue").status_code == 200

    def plan(part, column):
        statement, parameters = next(one for one in statements if f"{part} review_items.{column}" in one[0])
        with filled.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return " ".join(str(row.detail) for row in rows)

    for index, *named in (
        ("ix_review_items_next", "ORDER BY", "priority"),
        ("ix_review_items_groups", "GROUP BY", "policy_id"),
    ):
        assert f"INDEX {index}" in plan(*named)
        assert "TEMP B-TREE" not in plan(*named)
