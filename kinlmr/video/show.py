"""A page on this machine that shows pictures as they come: Python's http.server in a thread, and JPEG after JPEG.

It is served to this machine alone: at 127.0.0.1, to requests for that name (a page of another site cannot be one of
them under a name of its own), and not into pages of others.
"""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from kinlmr.video.frames import pyav
from kinlmr.video.sheets import Picture

HOST = "127.0.0.1"
QUALITY = 4  # of mjpeg: 2 is the best, 31 the worst
BUFFER = 1 << 16  # bytes on their way to a browser: more would be frames in a queue
HTML = """<!doctype html>
<meta charset="utf-8"><title>kinlmr</title>
<style>body{margin:0;background:#222;color:#ccc;font:14px sans-serif;text-align:center}
img{max-width:100%;max-height:94vh}p{margin:.5em}</style>
<img src="/stream" alt="the bodies over the picture and from the side"><p></p>
<script>
const line = document.querySelector("p")
let ended = false
setInterval(async () => {
  try {
    line.textContent = await (await fetch("/state")).text()
    if (ended) location.reload()
  } catch { line.textContent = "ended"; ended = true }
}, 1000)
</script>
"""


class Page:
    """The page at ``url`` until `close`. A ValueError where the port cannot be had; 0 is a free one.

    served: told of each picture that went out, when its frame arrived; state: the line under the pictures. watched: how
    many streams are being read.
    """

    def __init__(self, port: int, served: Callable[[float], None], state: Callable[[], str]) -> None:
        self.served, self.state, self.watched = served, state, 0
        self.newest: tuple[int, Picture, float] | None = None
        self.ended, self.changed = False, threading.Condition()
        try:
            self.server = http.server.ThreadingHTTPServer((HOST, port), type("Handler", (_Handler,), {"page": self}))
        except OSError as error:
            raise ValueError(
                f"--show {port}: the port cannot be had ({error}); without a number it is a free one"
            ) from None
        self.url = f"http://{HOST}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()

    def put(self, picture: Picture, arrived: float) -> None:
        """Shows a picture in the place of the one before, whether that was seen or not."""
        with self.changed:
            self.newest = (self.newest[0] + 1 if self.newest else 1, picture, arrived)
            self.changed.notify_all()

    def pictures(self) -> Iterator[tuple[Picture, float]]:
        """The newest picture, and the newest after that, until `close`."""
        last = 0
        while True:
            with self.changed:
                while not self.ended and (self.newest is None or self.newest[0] == last):
                    self.changed.wait()
                if self.ended or self.newest is None:
                    return
                last, picture, arrived = self.newest
            yield picture, arrived

    def close(self) -> None:
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """/, /stream and /state of a `Page`."""

    page: Page
    timeout = 30  # seconds that a browser may take for one picture

    def do_GET(self) -> None:
        if self.headers.get("Host", "").split(":")[0] not in (HOST, "localhost"):
            return self.send_error(403)
        try:
            if self.path == "/":
                self._send("text/html", HTML)
            elif self.path == "/state":
                self._send("text/plain", self.page.state())
            elif self.path == "/stream":
                self._stream()
            else:
                self.send_error(404)
        except OSError:  # the browser went
            self.close_connection = True

    def _begin(self, kind: str, *more: tuple[str, str]) -> None:
        self.send_response(200)
        usual = ("Content-Type", kind), ("Cache-Control", "no-store"), ("Cross-Origin-Resource-Policy", "same-origin")
        for header in (*usual, *more):
            self.send_header(*header)
        self.end_headers()

    def _send(self, kind: str, text: str) -> None:
        data = text.encode()
        self._begin(f"{kind}; charset=utf-8", ("Content-Length", str(len(data))))
        self.wfile.write(data)

    def _stream(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._begin("multipart/x-mixed-replace; boundary=next")
        self.wfile.write(b"--next\r\n")
        encode = Jpeg()
        with self.page.changed:
            self.page.watched += 1
        try:
            for picture, arrived in self.page.pictures():
                data = encode(picture)
                self.wfile.write(b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
                self.wfile.write(data + b"\r\n--next\r\n")  # browsers show a picture when they see the next begin
                self.page.served(arrived)
        finally:
            with self.page.changed:
                self.page.watched -= 1

    def log_message(self, *_: Any) -> None:
        pass


class Jpeg:
    """Pictures (H, W, 3) of one size, H and W even, as JPEG files."""

    def __init__(self) -> None:
        self.av, self.count = pyav(), 0
        self.codec: Any = None

    def __call__(self, picture: Picture) -> bytes:
        if self.codec is None:
            self.codec = self.av.CodecContext.create("mjpeg", "w")
            self.codec.height, self.codec.width = picture.shape[:2]
            self.codec.pix_fmt, self.codec.time_base = "yuvj420p", Fraction(1, 30)
            self.codec.thread_count = 1  # more of them hold pictures back
            self.codec.options = {"qmin": str(QUALITY), "qmax": str(QUALITY)}
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format="yuvj420p")
        frame.pts, self.count = self.count, self.count + 1
        return b"".join(bytes(packet) for packet in self.codec.encode(frame))


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """A picture made as large as (height, width)."""
    if picture.shape[:2] == size:
        return picture
    frame = pyav().VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return np.asarray(frame.reformat(size[1], size[0]).to_ndarray())
