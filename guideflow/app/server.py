"""Serve the page to this machine alone."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guideflow._given import count
from guideflow._require import require
from guideflow.app.recipe import Part
from guideflow.app.studio import Studio, preferred
from guideflow.app.uploads import MOST_BYTES, MOST_PICTURES
from guideflow.errors import InvalidArgument

HOST = "127.0.0.1"
_HOST = re.compile(rf"({re.escape(HOST)}|localhost)(:\d{{1,5}})?", re.IGNORECASE)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class OnlyHere:
    """Answer pages of this server alone: other sites in the same browser, by whatever name they reach it, get a 403.

    Arguments:
        app: What answers the others.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        named = [(key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in scope["headers"]]
        headers = dict(named)
        twice = any([key for key, _ in named].count(name) > 1 for name in ("host", "origin", "sec-fetch-site"))
        if twice or not same_place(headers, scope.get("method", "")):
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            return await _refuse(send, 403, "This page is for this machine alone.")
        most = MOST_BYTES * (MOST_PICTURES if scope["path"].endswith("/upload") else 1)
        if not headers.get("content-length", "0").isdecimal() or int(headers.get("content-length", "0")) > most:
            return await _refuse(send, 413, f"At most {most >> 20} MB are taken at a time.")
        # Nothing is in between that could say under which name it is reached.
        forwarded = re.compile(rb"(x-)?forwarded(-.*)?", re.IGNORECASE)
        scope["headers"] = [pair for pair in scope["headers"] if not forwarded.fullmatch(pair[0])]
        taken = 0

        async def bounded() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= most else {"type": "http.disconnect"}

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                extra += [(b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        return await self.app(scope, bounded, guarded)


async def _refuse(send: Send, status: int, why: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})


def same_place(headers: MutableMapping[str, str], method: str = "GET") -> bool:
    """Tell whether a request is for this machine by its own name, and no other site's doing.

    A link to the page may be anywhere; following it is the visitor's doing.
    """
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        return False
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return False
    followed = method == "GET" and headers.get("sec-fetch-mode") == "navigate" and origin is None
    return followed or headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


@dataclass
class Server:
    """A page that is being served.

    Arguments:
        url: Its address.
        studio: What it holds.
        blocks: The page.
    """

    url: str
    studio: Studio
    blocks: Any


@contextmanager
def serving(port: int | None = None, *, warm: bool = True) -> Iterator[Server]:
    """Serve the page while the context lasts; afterwards nothing of it is left on the disk.

    Arguments:
        port: Where to; None for any that is free.
        warm: Load the first sampler at once, so that the first click need not wait for it.
    """
    if port is not None:
        count("port", port, low=1024, high=65535)
    room = Path(tempfile.mkdtemp(prefix="guideflow-app-"))
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT | {"GRADIO_TEMP_DIR": str(room)})
    studio = Studio(room)
    blocks = None
    try:
        gradio = require("gradio", extra="app")
        from guideflow.app.page import looks, page

        blocks = page(gradio, studio)
        blocks.queue(default_concurrency_limit=1, max_size=20, api_open=False)
        middleware = require("starlette.middleware", extra="app").Middleware(OnlyHere)
        try:
            _, url, _ = blocks.launch(
                server_name=HOST,
                server_port=port or _free_port(),
                prevent_thread_lock=True,
                share=False,
                inbrowser=False,
                quiet=True,
                max_file_size=MOST_BYTES,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                strict_cors=True,
                app_kwargs={"middleware": [middleware], "docs_url": None, "redoc_url": None, "openapi_url": None},
                **looks(gradio),
            )
        except OSError as error:
            raise InvalidArgument(f"Port {port} is taken. Give another one, as in --port 7861.") from error
        if warm:
            threading.Thread(target=_warm, args=(studio,), daemon=True).start()
        yield Server(url, studio, blocks)
    finally:
        if blocks is not None:
            with suppress(Exception):
                blocks.close(verbose=False)
        studio.close()
        shutil.rmtree(room, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


_ENVIRONMENT = {
    "GRADIO_TEMP_DIR": "",
    "GRADIO_ANALYTICS_ENABLED": "False",  # nothing is told to anybody
    "GRADIO_ALLOWED_PATHS": "",  # no folder is served, whatever the shell says
    "GRADIO_ROOT_PATH": "",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def _warm(studio: Studio) -> None:
    """Load what the page starts with; a failure is told when it is asked for."""
    with suppress(Exception):
        studio.sampler(Part(preferred("sampler")))


def serve(port: int | None, open_browser: bool) -> None:
    """Serve until Ctrl-C, and say where."""
    from rich.console import Console

    with serving(port or 7860 if port is None and _is_free(7860) else port) as server:
        console = Console(highlight=False)
        console.print(f"Open {server.url} in a browser on this machine. Ctrl-C ends it.", soft_wrap=True)
        if open_browser:
            import webbrowser

            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _is_free(port: int) -> bool:
    import socket

    with socket.socket() as one:
        return one.connect_ex((HOST, port)) != 0
