"""What was reported: on the item's page with who and why, marked in the queue, and a part of it."""

import pytest

from safeguard_streams.console.schema import reports
from safeguard_streams.contract.records import content_sha256, now
from tests.unit.console.web.conftest import BOTH_DATABASES
from tests.unit.console.web.filling import TEXTS
from tests.unit.console.web.test_pages import HOSTILE


@pytest.fixture(scope="module")
def reported(filled):
    """post-000 is reported three times; nobody reported another one."""
    with filled.begin() as connection:
        for number, (kind, text) in enumerate((("user", TEXTS[0]), ("trusted_flagger", TEXTS[0]), ("user", "older"))):
            connection.execute(
                reports.insert().values(
                    content_id="post-000",
                    report_id=f"r{number}",
                    reporter=kind,
                    reported_at=now(),
                    reason=HOSTILE.replace("\0", "") if number else None,
                    content_sha256=content_sha256(text),
                )
            )


@BOTH_DATABASES
def test_the_page_of_an_item_says_who_reported_it_and_what_they_say(browser, reported):
    page = browser("ann", "reviewer").get("/item?id=post-000").text
    assert "Reported 3 times" in page
    assert "a trusted flagger" in page
    assert page.count("another text") == 1
    assert "<script>alert(1)" not in page
    assert "Reported" not in browser("ann", "reviewer").get("/item?id=post-002").text


@BOTH_DATABASES
def test_the_queue_marks_what_was_reported_and_shows_it_alone(browser, reported):
    ann = browser("ann", "reviewer")
    assert ann.get("/queue").text.count("reported 3 times") == 1
    alone = ann.get("/queue?cause=reported").text
    assert "post-000" in alone
    assert "post-002" not in alone
    ann.post("/claims", cause="reported")
    assert "you hold it" in ann.get("/item?id=post-000").text
