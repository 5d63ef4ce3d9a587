"""A small server for a page of this machine: what it answers, and whom it refuses.

Only 127.0.0.1 reaches it. A page elsewhere that makes a browser ask it, by its own name for 127.0.0.1
or by sending a form, is refused; the browser may load nothing from another host. Nothing that is sent to
it is written to a disk.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from flowerkit.reports import render

HOST = "127.0.0.1"
LARGEST_BYTES = 100 * 10**6
_PORTS = range(7860, 7960)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' "
    "data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Reply:
    """A response: its body, the media type of it and the HTTP status."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200


def find_reply(path: str, name: str, draw: Callable[[], str]) -> Reply | None:
    """The page that `draw` makes, at "/", or what it loads: the templates NAME.css and NAME.js."""
    if path == "/":
        return Reply(draw().encode(), "text/html; charset=utf-8")
    for file, kind in (("css", "css"), ("js", "javascript")):
        if path == f"/page.{file}":
            return Reply(render(f"{name}.{file}").encode(), f"text/{kind}; charset=utf-8")
    return None


@contextlib.contextmanager
def serve_locally(
    respond: Callable[[str, str, bytes], Reply | None], *, port: int | None = None
) -> Iterator[str]:
    """Serve on 127.0.0.1 until the block ends; gives the address, which ends with a slash.

    `respond(method, path, body)` answers a request, "GET" or "POST"; None: there is no such page. It is
    called in threads, one call at a time. `port`: None: the first free one from 7860. Raises OSError if
    it is in use.
    """
    server = _listen(_PORTS if port is None else [port])
    server.respond, server.one_at_a_time = respond, threading.Lock()
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def _listen(ports) -> "_Server":
    for port in ports:
        with contextlib.suppress(OSError, OverflowError):
            return _Server((HOST, port), _Handler)
    shown = ports[0] if len(ports) == 1 else f"from {ports[0]} to {ports[-1]}"
    raise OSError(f"{HOST} has no free port {shown}. Pass another --port.")


class _Server(ThreadingHTTPServer):
    allow_reuse_address = os.name != "nt"  # on Windows it would share a port that is in use

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks the network for the name of 127.0.0.1
        self.server_port = self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send(self._check() or self._respond(b""))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BYTES:
            self._send(Reply(b"A photo may have 100 MB.", status=413))
            return
        body = self.rfile.read(int(length))  # also of what is refused, or the refusal is not read
        self._send(self._check() or self._respond(body))

    def _check(self) -> Reply | None:
        """The refusal of what another page makes a browser send here."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        port = self.server.server_port
        if host not in (f"{HOST}:{port}", f"localhost:{port}"):
            return Reply(b"This page has another address.", status=400)
        if origin not in (None, f"http://{host}"):
            return Reply(b"This page takes photos from itself alone.", status=403)
        return None

    def _respond(self, body: bytes) -> Reply:
        with self.server.one_at_a_time:  # a LiteRT interpreter runs one call at a time
            reply = self.server.respond(self.command, self.path, body)
        return reply or Reply(b"There is no such page.", status=404)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        with contextlib.suppress(ConnectionError):  # the browser has left the page
            self.end_headers()
            self.wfile.write(reply.body)

    def log_message(self, format, *args) -> None:
        pass

    def version_string(self) -> str:
        return "flowerkit"
