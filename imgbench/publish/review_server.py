"""Serves the page on which people look at photographs: to this machine alone, and to whoever knows the address."""

import importlib.util
import json
import secrets
import shlex
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from imgbench.content_policy import HEADERS, REVIEW
from imgbench.data.annotated import UNKNOWN
from imgbench.data.corrections import FILE
from imgbench.errors import UserError
from imgbench.language import language_of_locale
from imgbench.publish.review_images import LARGE, SMALL, ReviewedImages
from imgbench.publish.review_learning import Learning
from imgbench.publish.review_training import Training, first_training

if TYPE_CHECKING:
    from starlette.applications import Starlette

HOST = "127.0.0.1"
LARGEST = 10_000  # bytes of what a browser may send
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
OWN_HEADERS = {"Content-Security-Policy": REVIEW, **HEADERS, "Cache-Control": "no-store"}
STATIC = {name: f"review.{name}" for name in KINDS}


def require_starlette() -> None:
    """Raises UserError: the packages that serve the page are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UserError(
            'The page needs starlette and uvicorn, not installed here. Mend it with: pip install "imgbench[demo]"'
        )


def texts() -> dict[str, dict[str, str]]:
    """name -> language -> text."""
    return yaml.safe_load((files("imgbench.publish") / "templates" / "review.yaml").read_text("utf-8"))


def build_app(
    images: ReviewedImages, learning: Learning, training: Training, token: str, port: int, language: str | None
) -> "Starlette":
    """The application; every address begins with the token."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route

    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    origins = {f"http://{host}" for host in hosts}

    def static(kind: str) -> Callable[[Request], Response]:
        content = (files("imgbench.publish") / "static" / STATIC[kind]).read_bytes()
        return lambda request: Response(content, media_type=f"{KINDS[kind]}; charset=utf-8")

    def start(request: Request) -> Response:
        return JSONResponse(
            {
                "texts": texts(),
                "language": language,
                "locale": language_of_locale(),
                "root": images.table.root.resolve().name,
                "place": str(images.place),
                "run": str(images.run.shown) if images.run else None,
                "frozen": images.frozen,
                "folds": bool(images.run and images.run.folds),
                "command": shlex.join(first_training(images)),
                "names": images.names_classes,
                "asked": images.numbers[images.asked].tolist(),
                "labels": [
                    None if images.is_blind(row) or images.labels[row] == UNKNOWN else int(images.table.labels[row])
                    for row in images.rows
                ],
                "queues": {
                    name: [[[int(images.numbers[row]) for row in item.rows], item.why, item.value] for item in items]
                    for name, items in images.queues.items()
                },
                "decisions": images.described(),
            }
        )

    def proposals(request: Request) -> Response:
        return JSONResponse(learning.state())

    def decisions(request: Request) -> Response:
        if request.query_params.get("version") == str(images.decisions().version):
            return JSONResponse(None)
        return JSONResponse(images.described())

    def row_of(request: Request) -> int:
        number = request.path_params["number"]
        if not 0 <= number < len(images.rows):
            raise UserError("There is no such photograph.")
        return int(images.rows[number])

    def picture(side: int) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            content = images.picture(row_of(request), side)
            if content is None:
                return Response(status_code=404)
            return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

        return answer

    def about(request: Request) -> Response:
        return JSONResponse(images.about(row_of(request)))

    def state(request: Request) -> Response:
        return JSONResponse(training.state())

    def posted(act: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body = await request.body()
            try:
                content = json.loads(body)
            except ValueError:
                content = None
            if not isinstance(content, dict):
                raise UserError("What was sent is no decision.")
            return JSONResponse(await run_in_threadpool(act, content))

        return answer

    def decide(content: dict[str, Any]) -> Any:
        images.decide(content)
        learning.wake()
        return images.described()

    def train(content: dict[str, Any]) -> Any:
        training.start(bool(content.get("whole")))
        return training.state()

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=409)

    routes = [
        Route("/", static("html")),
        Route("/review.css", static("css")),
        Route("/review.js", static("js")),
        Route("/review.svg", static("svg")),
        Route("/start", start),
        Route("/decisions", decisions),
        Route("/proposals", proposals),
        Route("/photo/{number:int}", picture(LARGE)),
        Route("/small/{number:int}", picture(SMALL)),
        Route("/about/{number:int}", about),
        Route("/decide", posted(decide), methods=["POST"]),
        Route("/train", posted(train), methods=["POST"]),
        Route("/training", state),
    ]
    app = Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers={UserError: refuse})
    app.add_middleware(_Guard, hosts=hosts, origins=origins)
    return app


class _Guard:
    """Answers nobody who came by another name or from another page, and lets nothing but the page itself be loaded."""

    def __init__(self, app: Any, hosts: set[str], origins: set[str]) -> None:
        self.app, self.hosts, self.origins = app, hosts, origins

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_own(scope["method"], headers):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"refused"})
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                more = [(name.lower().encode(), value.encode()) for name, value in OWN_HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in more if one[0] not in known)]
            await send(message)

        await self.app(scope, receive, send_guarded)

    def _is_own(self, method: str, headers: dict[str, str]) -> bool:
        if headers.get("host") not in self.hosts:  # another name that leads here, as after DNS rebinding
            return False
        if headers.get("origin", next(iter(self.origins))) not in self.origins:
            return False
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return False
        if method == "POST":
            plain = headers.get("content-type") == "application/json"
            return plain and "origin" in headers and 0 <= int(headers.get("content-length") or -1) <= LARGEST
        return method in ("GET", "HEAD")


def serve(images: ReviewedImages, learning: Learning, training: Training, port: int, language: str | None) -> None:
    """Serves the page until it is interrupted, and says where it is."""
    import uvicorn

    token = secrets.token_urlsafe(16)
    app = build_app(images, learning, training, token, port, language)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", server_header=False)
    place = socket.create_server((HOST, port))  # from here on, browsers wait until they are answered
    print(f"Decisions go to {images.place}: a plain table; {FILE} beside photographs counts in every command.")
    print(f"The page is at http://{HOST}:{port}/{token}/ until Ctrl-C.", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[place])
    finally:
        learning.stop()
        training.stop()
