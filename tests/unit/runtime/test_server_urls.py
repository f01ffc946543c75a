"""URLs of inference servers are read, and refused before anything starts, as settings."""

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.server_urls import direct_url, urls_of

NAMED = "dns+http://vllm.inference:8000/v1"


def test_urls_are_joined_by_commas():
    given = settings.load(servers=f" {NAMED} , http://gpu-1:8000/v1,")
    assert urls_of(given.servers) == [NAMED, "http://gpu-1:8000/v1"]
    assert direct_url(NAMED + "/") == "http://vllm.inference:8000/v1"
    assert urls_of(settings.load(servers="").servers) == []


@pytest.mark.parametrize("url", ["https://[2001:db8::1]:8000/v1", "http://b\xfccher.example/v1", "http://gpu-1"])
def test_hosts_may_be_addresses_and_names_in_any_script(url):
    assert settings.load(servers=url).servers == url


@pytest.mark.parametrize(
    "url",
    [
        "gpu-1:8000/v1",
        "http:///v1",
        "ftp://gpu-1/v1",
        "dns+gpu-1:8000",
        "http://gpu-1:99999/v1",
        "http://gpu-1:0/v1",
        "dns+http://[::1/v1",
        "http://[::1/v1",
        "http://ex..ample/v1",
        f"http://{'x' * 64}.example/v1",
        "http://no such host/v1",
        "http://gpu-1/v\x1b[31m1",
        "http://gpu-1/v1?key=SECRET",
        "http://gpu-1/v1#SECRET",
        ",",
    ],
)
def test_what_is_no_base_url_is_refused_with_the_form_to_give(url):
    with pytest.raises(
        ConfigurationError, match=r"SAFEGUARD_SERVERS: .*no base URL: give .* http://HOST:8000/v1"
    ) as raised:
        settings.load(servers=f"http://gpu-2:8000/v1,{url}" if url != "," else url)
    assert "SECRET" not in str(raised.value)
