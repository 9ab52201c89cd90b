"""The content policy of the page that Gradio serves: what Gradio itself sends without one."""

from functools import cache
from importlib.resources import files
from typing import Any

from imgbench.content_policy import HEADERS, inline_scripts, of_gradio


class ContentPolicy:
    """Adds the policy, and the other headers of a served page, to each answer of an ASGI application."""

    def __init__(self, app: Any, share: bool) -> None:
        self.app, self.expected = app, scripts_of_gradio(share)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Any = None  # of a page, whose scripts are known once it is whole
        body = b""

        async def send_guarded(message: Any) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                if _is_page(message):
                    start = message
                else:
                    await send(_with_headers(message, ""))
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await send(_with_headers(start, body.decode("utf-8", "replace"), self.expected))
                    await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, send_guarded)


def _is_page(message: Any) -> bool:
    return any(name.lower() == b"content-type" and b"html" in value for name, value in message["headers"])


def _with_headers(message: Any, page: str, expected: int = 0) -> Any:
    headers = {"Content-Security-Policy": of_gradio(page, expected), **HEADERS}
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    names = {name for name, _ in added}
    return {**message, "headers": [*(one for one in message["headers"] if one[0].lower() not in names), *added]}


@cache
def scripts_of_gradio(share: bool) -> int:
    """How many inline scripts the template of Gradio's page has."""
    template = files("gradio") / "templates" / "frontend" / ("share.html" if share else "index.html")
    return len(inline_scripts(template.read_text("utf-8")))
