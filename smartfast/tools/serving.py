"""Pages of SmartFast on this machine alone: a small HTTP server that only programs of this machine reach.

It listens on 127.0.0.1. A web page from elsewhere, which a browser of this machine shows, can send requests there too:
one that has made its own name lead here (DNS rebinding) says that name as the host, and one that does not asks from
another site, which browsers say as well. Both are refused. What it answers is for whoever has an account here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from smartfast.errors import UserError

ADDRESS = "127.0.0.1"
_HOSTS = ("127.0.0.1", "localhost")
_OWN_SITE = ("same-origin", "none")  # Sec-Fetch-Site of our page, and of an address that a person has typed
_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Answer(NamedTuple):
    """What the server sends: the content and its media type."""

    content: bytes
    media_type: str

    @classmethod
    def of_json(cls, value: Any) -> "Answer":
        return cls(json.dumps(value, allow_nan=False, separators=(",", ":")).encode(), "application/json")


Route = Callable[[str, Mapping[str, str]], Answer | None]
"""The answer to a path such as `/runs/0.json` and the values of its query; None = there is nothing of that name."""


def open_server(route: Route, port: int) -> ThreadingHTTPServer:
    """A server of what `route` answers, from any number of threads; `serve_forever` runs it.

    Args:
        route: An error of its own that is a UserError is said to the browser.
        port: Of 127.0.0.1, 0 = any that is free.

    Raises:
        UserError: The port is taken.
    """

    class Handler(_Handler):
        answer = staticmethod(route)

    try:
        return _Server((ADDRESS, port), Handler)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"port: {port} of {ADDRESS}: {reason}, expected a free one; 0 takes any") from error


def serve(server: ThreadingHTTPServer, what: str) -> None:
    """Run a server until Ctrl-C, with a line that says where it is."""
    with server:
        print(f"{what}: http://{ADDRESS}:{server.server_address[1]}/  (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle of an answer is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    answer: Route
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "smartfast", ""
    timeout = 60

    def do_GET(self) -> None:
        self._send(*self._found())

    do_HEAD = do_GET

    def _found(self) -> tuple[int, Answer]:
        """Status and answer."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _HOSTS:
            return 403, _said(f"host {host!r}, expected one of {', '.join(_HOSTS)}")
        if self.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITE:
            return 403, _said("a page of another site asks")
        url = urlsplit(self.path)
        try:
            found = self.answer(url.path, dict(parse_qsl(url.query, keep_blank_values=True)))
        except UserError as error:
            return 400, _said(str(error))
        except Exception as error:  # what goes wrong with one answer must not end the others
            return 500, _said(f"{type(error).__name__}: {error}")
        return (404, _said("there is nothing of this name")) if found is None else (200, found)

    def _send(self, status: int, answer: Answer) -> None:
        tag = f'"{hashlib.sha256(answer.content).hexdigest()[:32]}"'
        if status == 200 and self.headers.get("If-None-Match") == tag:
            status, answer = 304, Answer(b"", answer.media_type)
        self.send_response(status)
        for name, value in (_HEADERS | {"ETag": tag, "Content-Type": answer.media_type}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def _said(text: str) -> Answer:
    return Answer(text.encode(errors="backslashreplace"), "text/plain; charset=utf-8")
