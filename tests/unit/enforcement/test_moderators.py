"""Who decides and why is plain text, in every script."""

import pytest

from safeguard_streams.cli.options import changed_by
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement.app import EnforcementAgent
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime import settings


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\r", "\x1b[31mred", "\x00", "\x7f", "\x9b2J", "a\u2028b", "\u202eevil", "\u2066x", "\ud800", "x" * 2001],
)
async def test_a_name_or_a_reason_that_is_no_plain_text_is_refused_before_anything_is_read(text):
    for moderator in (ChangedBy(text, "ann"), ChangedBy("", text)):
        with pytest.raises(ConfigurationError, match="--why|--by") as caught:
            await moderators.decide(settings.load(bootstrap="127.0.0.1:1"), "c1", "allow", moderator)
        assert text not in str(caught.value)
        with pytest.raises(ConfigurationError, match="--why|--by"):
            await moderators.release(settings.load(bootstrap="127.0.0.1:1"), [], moderator)


@pytest.mark.parametrize(
    "text", ["", "Ünal Öz", "сатира, не угроза", "讽刺", "هجاء", "👩‍⚖️ [/x] $(ls) 'quoted'", "a\u00a0b"]
)
def test_plain_text_of_every_script_is_accepted(text):
    moderators._check(ChangedBy(text, text))


@pytest.mark.parametrize("value", ["a\nb", "Bearer \x00", "Bearer ключ"])
def test_an_authorization_that_no_header_can_carry_is_refused_and_not_printed(value):
    agent = EnforcementAgent(settings.load(webhook_authorization=value), EnforcementRules(), 1)
    with pytest.raises(ConfigurationError, match="SAFEGUARD_WEBHOOK_AUTHORIZATION") as caught:
        agent._authorization()
    assert value not in str(caught.value)


@pytest.mark.parametrize("error", [KeyError("uid not found: 4711"), OSError("no username set")])
def test_a_user_id_without_a_name_needs_one(error, monkeypatch):
    def getuser():
        raise error

    monkeypatch.setattr("getpass.getuser", getuser)
    with pytest.raises(ConfigurationError, match="say who you are with --by"):
        changed_by("", None)
    assert changed_by("", "ann").by == "ann"
