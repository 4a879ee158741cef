"""Serve an assembled page on the loopback address, with the headers that threads in WebAssembly need."""

from __future__ import annotations

import argparse
import errno
import os
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from corpora.files import check_output
from downstream import DownstreamError
from downstream.asr.reading import named_head
from downstream.web.site import Files, assemble, write_site

ADDRESS = "127.0.0.1"
_HOSTS = {ADDRESS, "localhost"}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".bin": "application/octet-stream",
}
HEADERS = {
    # Cross-origin isolation: without it browsers share no memory between threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page and its workers may contact this server only.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self'; media-src blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0].lstrip("/") or "index.html"
        content = self.server.files.get(path)
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        # A name of another site that was pointed to this address must not read the list of texts.
        if host not in _HOSTS:
            refusal = f"this page answers {ADDRESS} only\n".encode()
            self._send(HTTPStatus.FORBIDDEN, "text/plain", refusal, "no-store", body)
        elif content is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no such file\n", "no-store", body)
        else:
            data = content if isinstance(content, bytes) else content.read_bytes()
            keep = "max-age=31536000, immutable" if "/" in path else "no-cache"
            self._send(HTTPStatus.OK, TYPES[Path(path).suffix], data, keep, body)

    def _send(self, status: HTTPStatus, kind: str, data: bytes, keep: str, body: bool) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Cache-Control": keep}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            try:
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the browser went away

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""


class Server(ThreadingHTTPServer):
    """A server of an assembled page; `server_address[1]` is its port. Raises DownstreamError for a port in use."""

    daemon_threads = True
    # Another process could otherwise open the same port while this one serves.
    allow_reuse_port = False

    def __init__(self, files: Files, port: int) -> None:
        self.files = files
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OverflowError as error:
            raise DownstreamError(f"--port {port}: expected 0 to 65535") from error
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = "is in use" if error.errno == errno.EADDRINUSE else "needs the rights of an administrator"
            raise DownstreamError(f"--port {port} {reason}; give another one, or 0 for any that is free") from error

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_address[1]}/"


def run(args: argparse.Namespace) -> int:
    """The command `web`: assemble the page, then serve it until it is interrupted, or write it to --out. Returns 0."""
    head = named_head(args.head, "--head")
    if args.out is not None:
        check_output(args.out, [args.texts, head, *([args.model] if args.model else [])])
        if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir()) and not _is_site(args.out)):
            raise DownstreamError(f"--out {args.out}: exists and is no page of this command; name a new folder")
    files = assemble(head, args.model, texts=args.texts, spans=args.spans, precision=args.precision)
    if args.out is not None:
        write_site(files, args.out)
        headers = "; ".join(f"{name}: {HEADERS[name]}" for name in list(HEADERS)[:2])
        print(f"{args.out}: copy this folder to a server that sends `{headers}` (without them: one thread)")
        return 0
    with Server(files, args.port) as server:
        print(f"{server.url} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _is_site(folder: Path) -> bool:
    return {"index.html", "sw.js", "page", "model", "ort"} == set(os.listdir(folder))
