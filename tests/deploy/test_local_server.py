"""local_server: what a browser gets from a page of this machine, and what is refused."""

import http.client
import urllib.parse
import urllib.request

import pytest

from flowerkit.deploy.local_server import LARGEST_BYTES, Reply, serve_locally


def echo(method, path, body):
    """Replies with what came; knows two paths."""
    if path not in ("/", "/classify"):
        return None
    return Reply(f"{method} {path} {len(body)}".encode())


@pytest.fixture
def url():
    with serve_locally(echo) as url:
        yield url


def ask(url, method="POST", body=b"12345", **headers):
    """(status, text) of a request with these headers."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read().decode()
    except urllib.request.HTTPError as error:
        return error.code, error.read().decode()


def test_requests_are_answered_and_other_paths_are_not_there(url):
    assert ask(url, "GET", None) == (200, "GET / 0")
    assert ask(url + "classify") == (200, "POST /classify 5")
    assert ask(url + "other")[0] == 404
    assert ask(url, "PUT")[0] == 501


def test_every_reply_forbids_other_hosts_and_frames_and_is_kept_nowhere(url):
    with urllib.request.urlopen(url) as response:
        headers = response.headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")


@pytest.mark.parametrize(
    "origin", ["https://example.com", "null", "http://localhost:3000", "http://127.0.0.1"]
)
def test_other_pages_can_send_nothing(url, origin):
    assert ask(url + "classify", Origin=origin)[0] == 403
    assert ask(url + "classify", body=b"1" * 3_000_000, Origin=origin)[0] == 403
    assert ask(url + "classify", Origin=url.rstrip("/"))[0] == 200


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "127.0.0.1:1"])
def test_another_name_for_this_machine_is_refused(url, host):
    assert ask(url, "GET", None, Host=host)[0] == 400


@pytest.mark.parametrize("length", [str(LARGEST_BYTES + 1), "-1", "many"])
def test_a_body_that_is_too_large_or_of_unknown_length_is_not_read(url, length):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)
    connection.putrequest("POST", "/classify")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_a_port_in_use_is_refused_and_the_next_is_found(url):
    port = urllib.parse.urlsplit(url).port
    for used in (port, 70000):
        with pytest.raises(OSError, match=f"no free port {used}.*--port"):
            serve_locally(echo, port=used).__enter__()
    with serve_locally(echo) as second:
        assert urllib.parse.urlsplit(second).port != port
    assert ask(url, "GET", None)[0] == 200
