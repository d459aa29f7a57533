"""A server of one gallery, for this machine alone: the page, its pictures, and any frame's neighbours when asked."""

import errno
import json
import re
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, NamedTuple

from curl_rl.representation.gallery.contents import Contents, Gallery, Values
from curl_rl.representation.gallery.page import opened_index, page
from curl_rl.representation.index import FrameIndex
from curl_rl.run.interrupts import StopRequest
from curl_rl.types import ConfigError

HERE = "127.0.0.1"
_AROUND = 8  # frames of an episode before and after one


class Answer(NamedTuple):
    """What a path leads to."""

    kind: str
    content: bytes


class Site:
    """All that a gallery's server answers, by path; nothing of it is read from the disk when it is asked for."""

    def __init__(self, contents: Contents, title: str):
        self._contents, self._index = contents, contents.index
        self._page = page(contents, title, served=True).encode()
        self._one = threading.Lock()  # a search at a time: each takes memory for all frames

    def answer(self, path: str) -> Answer | None:
        """Return what a path leads to, None where it leads nowhere. A path is taken letter by letter."""
        if path == "/":
            return Answer("text/html; charset=utf-8", self._page)
        found = re.fullmatch(r"/(sheet|frame)/(0|[1-9][0-9]{0,8})", path)
        if found is None:
            return None
        kind, number = found[1], int(found[2])
        if kind == "sheet":
            there = number < len(self._index.sheets)
            return Answer("image/jpeg", self._index.sheets[number]) if there else None
        there = number < len(self._index)
        return Answer("application/json", json.dumps(self._looked_at(number)).encode()) if there else None

    def _looked_at(self, number: int) -> dict[str, Any]:
        """Return what is known of a frame, of its neighbours, and of the frames around it in its episode."""
        around = range(max(0, number - _AROUND), min(len(self._index), number + _AROUND + 1))
        episode = self._index.episodes[number]
        strip = [each for each in around if self._index.episodes[each] == episode]
        return {
            "frame": self._contents.frame(number),
            "near": self._alike(number, other_episodes=False),
            "far": self._alike(number, other_episodes=True),
            "strip": [self._contents.frame(each) for each in strip],
        }

    def _alike(self, number: int, *, other_episodes: bool) -> list[dict[str, Any]]:
        if not (count := min(self._contents.look.neighbours, len(self._index) - 1)):
            return []
        with self._one:
            ids, values = self._index.neighbours(number, count, other_episodes=other_episodes)
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return [{**self._contents.frame(each), "value": value} for each, value in pairs if each >= 0]


class Server(ThreadingHTTPServer):
    """Answers for one site on 127.0.0.1, and only what is asked of it by that name or localhost."""

    def __init__(self, site: Site, port: int):
        self.site = site
        super().__init__((HERE, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks the network for this machine's name
        self.server_name, self.server_port = HERE, self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{HERE}:{self.server_port}/"


def hosts(port: int) -> set[str]:
    """Return what a browser of this machine may call the server; the usual port it leaves out."""
    ends = (f":{port}", "") if port == 80 else (f":{port}",)
    return {f"{name}{end}" for name in (HERE, "localhost") for end in ends}


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        # A page elsewhere whose name is made to lead here would ask by its own name.
        if (self.headers.get("Host") or "").lower() not in hosts(self.server.server_port):
            self._send(HTTPStatus.FORBIDDEN, Answer("text/plain", f"ask for {self.server.url}\n".encode()))
        elif (found := self.server.site.answer(self.path)) is None:
            self._send(HTTPStatus.NOT_FOUND, Answer("text/plain", b"there is nothing here\n"))
        else:
            self._send(HTTPStatus.OK, found)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        self.send_response(status)
        headers = {"Content-Type": answer.kind, "Content-Length": str(len(answer.content)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
        for name, value in (headers | {"Cross-Origin-Resource-Policy": "same-origin"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def version_string(self) -> str:
        return "curl-rl"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the browser has gone
            self.close_connection = True


def open_server(
    index: FrameIndex | str | Path, *, port: int = 0, columns: Mapping[str, Values] | None = None, **options: Any
) -> Server:
    """Return a server of an index's gallery that listens, to be run by `serve_forever`.

    Args: port, 0 for a free one; others, as of `build_gallery`. Raises ConfigError for a port that is in use.
    """
    look, (opened, title) = Gallery(**options), opened_index(index)
    site = Site(Contents(opened, look, columns or {}), title)
    try:
        return Server(site, port)
    except OSError as error:
        fault = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ConfigError(f"port {port} {fault}: give another --port, or 0 for any that is free") from None


def serve(index: FrameIndex | str | Path, **options: Any) -> None:
    """Show a gallery on 127.0.0.1 until Ctrl-C or SIGTERM. Args and errors: as of `open_server`."""
    stop = StopRequest("stopped")
    with open_server(index, **options) as server, stop.listening():
        print(f"{server.url}  (Ctrl-C ends it)", flush=True)
        server.timeout = 0.5  # after which it looks whether to stop
        while not stop():
            server.handle_request()
