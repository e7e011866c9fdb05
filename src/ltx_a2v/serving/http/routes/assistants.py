"""`/mcp`: the Model Context Protocol over HTTP, without sessions; without the extra `mcp`, a sentence that names it.

Each request is answered by one JSON reply. The gate in front of all routes checks host, origin and key; the body comes
in under the limits of all bodies.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

import ltx_a2v
from ltx_a2v.errors import A2VError, MissingExtra
from ltx_a2v.serving.http.bodies import check_shape
from ltx_a2v.serving.http.failures import MISTAKE, as_ours
from ltx_a2v.serving.http.following import until_disconnect
from ltx_a2v.serving.http.receiving import SlowClient, drain
from ltx_a2v.serving.http.replies import message_of
from ltx_a2v.serving.http.service import Service
from ltx_a2v.serving.http.tools import TOOLS, call_tool, input_schemas
from ltx_a2v.serving.logs import say

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult

PATH = "/mcp"
EXTRA = "mcp"


def mount(app: FastAPI, service: Service) -> None:
    endpoint = _not_installed if importlib.util.find_spec(EXTRA) is None else Endpoint(service)
    app.router.routes.append(Route(PATH, endpoint, methods=["POST"], include_in_schema=False))


async def _not_installed(request: Request) -> NoReturn:
    await drain(request)
    raise HTTPException(404, str(MissingExtra(f"The endpoint {PATH}", EXTRA)))


class Endpoint:
    """The ASGI application of the path."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server: Server[Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        receiving, request = self._service.receiving, Request(scope, receive)
        try:
            async with (
                receiving.spooled(request, receiving.text_limit) as (file, size),
                receiving.parsing(size),
            ):
                body = file.read()
                await receiving.parse(lambda: check_shape(body))
                await self._answer(body, scope, receive, send)
        except (ClientDisconnect, SlowClient):
            raise
        except A2VError:
            await drain(request)
            raise

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """A manager serves one run of an application; without sessions that may be one request."""
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        if self._server is None:
            self._server = await asyncio.to_thread(_server, self._service)
        manager = StreamableHTTPSessionManager(
            self._server, json_response=True, stateless=True, max_request_body_size=self._service.receiving.text_limit
        )
        async with manager.run():
            await manager.handle_request(scope, _again(body, receive), send)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then what follows it."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _server(service: Service) -> Server[Any]:
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolRequestParams, ListToolsResult, Tool

    schemas = input_schemas()
    tools = [
        Tool(name=name, description=inspect.cleandoc(tool.__doc__ or ""), input_schema=schemas[name])
        for name, tool in TOOLS.items()
    ]

    async def list_tools(*_: object) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    async def call(context: ServerRequestContext[Any, Request], asked: CallToolRequestParams) -> CallToolResult:
        assert context.request is not None
        until_left = partial(until_disconnect, context.request)
        return await _result(call_tool(service, asked.name, asked.arguments or {}, until_left))

    return Server("ltx-a2v", version=ltx_a2v.__version__, on_list_tools=list_tools, on_call_tool=call)


async def _result(called: Coroutine[Any, Any, BaseModel]) -> CallToolResult:
    """Failures are results too, so that an assistant can read them and do better."""
    from mcp.types import CallToolResult, TextContent

    try:
        reply = await called
    except Exception as error:
        return CallToolResult(content=[TextContent(type="text", text=_message(error))], is_error=True)
    text = TextContent(type="text", text=reply.model_dump_json())
    return CallToolResult(content=[text], structured_content=reply.model_dump(mode="json"))


def _message(error: Exception) -> str:
    if isinstance(error, A2VError | OSError):
        return message_of(as_ours(error))
    say("server", f"unexpected {type(error).__name__}: {error}", level=40)
    return MISTAKE
