"""The HTTP application: FastAPI routes over :class:`ScoreService` and :class:`Models`."""

# No postponed annotations: FastAPI reads those of the routes, whose classes are imported in a function.
import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Security
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from genrec_plugins import __version__
from genrec_plugins.serving.metrics import CONTENT_TYPE
from genrec_plugins.serving.openapi import problem as problem_schema
from genrec_plugins.serving.openapi import row_schema, score_operation
from genrec_plugins.serving.problems import Problem
from genrec_plugins.serving.reload import Model, Models
from genrec_plugins.serving.service import ScoreService, refusal
from genrec_plugins.serving.settings import ServeSettings
from genrec_registry import GenrecError

_Key = Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="the API key"))]
_Bearer = Annotated[
    HTTPAuthorizationCredentials | None,
    Security(HTTPBearer(auto_error=False, description="the API key as a bearer token")),
]
#: status -> what OpenAPI says of it
_Responses = dict[int | str, dict[str, Any]]


def create_app(
    directory: str | Path,
    open_model: Callable[[Path], Model],
    settings: ServeSettings | None = None,
    *,
    keys: Sequence[str] = (),
    on_failure: Callable[[GenrecError], None] | None = None,
) -> FastAPI:
    """The application.

    Args:
        directory: an export, a link to one, or a folder with ``current`` in it.
        open_model: opens an export, as :meth:`genrec_plugins.serving.served.Served.open` does.
        settings: limits and waits.
        keys: API keys, each of which is good; without any, everything but ``/reload`` is open to all.
        on_failure: told if the first model cannot be loaded.

    Returns:
        An ASGI application; its model is loaded when it starts, in the background.
    """
    settings = settings or ServeSettings()
    models = Models(directory, open_model)
    service = ScoreService(models, settings)
    models.observe = lambda outcome: _observe(service, models, outcome)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        tasks = [asyncio.create_task(_load_and_watch(models, settings.watch_seconds, on_failure))]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await service.close()
        models.close()

    app = FastAPI(
        title="genrec serve",
        version=__version__,
        summary="Probabilities of raw rows.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service, app.state.models = service, models
    _add_routes(app, service, models, tuple(_hashed(key) for key in keys))
    app.add_exception_handler(Problem, lambda request, error: refusal(error))
    return app


async def _load_and_watch(models: Models, seconds: float, on_failure: Callable[[GenrecError], None] | None) -> None:
    try:
        await models.reload()
    except GenrecError as error:
        if on_failure is not None:
            on_failure(error)
    if seconds:
        await models.watch(seconds)


def _observe(service: ScoreService, models: Models, outcome: str) -> None:
    service.metrics.reloaded(outcome)
    if models.current is not None:
        service.metrics.serving(models.current.digest, models.current.loaded_at)


def _add_routes(app: FastAPI, service: ScoreService, models: Models, keys: tuple[bytes, ...]) -> None:
    def check_key(key: _Key, bearer: _Bearer) -> None:
        given = _hashed(key or (bearer.credentials if bearer else ""))
        good = [hmac.compare_digest(given, known) for known in keys]  # all: the time must not say which
        if not any(good):
            raise Problem(401, "the API key is missing or wrong; send it as X-API-Key")

    guarded = [Depends(check_key)] if keys else []
    refused: _Responses = {401: problem_schema("the API key is missing or wrong")} if keys else {}

    @app.post("/score", dependencies=guarded, summary="Probabilities of raw rows")
    async def score(request: Request) -> Response:
        return await service.answer(request)

    @app.get(
        "/health",
        summary="Whether a model is loaded, which, and whether the newest export could be",
        responses={503: {"description": "no model is loaded", "content": {"application/json": {}}}},
    )
    async def health() -> JSONResponse:
        return JSONResponse(_health(models), 503 if models.current is None else 200)

    @app.get("/metrics", dependencies=guarded, summary="For Prometheus", responses=_text(refused))
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/schema", dependencies=guarded, summary="The raw columns of the model", responses=refused | _no_model())
    async def schema() -> dict[str, Any]:
        model = _model(models)
        return {
            "model": model.digest,
            "row": row_schema(model.schema),
            "openapi": "/openapi.json",
            "label": model.schema.label,
            "shared": sorted(model.shared),
            "history": model.history,
        }

    @app.post(
        "/reload",
        dependencies=guarded,
        summary="Look for another export now",
        responses=refused
        | {
            403: problem_schema("the server has no API key, so that nobody may"),
            409: problem_schema("the export cannot be served; the model before goes on"),
        },
    )
    async def reload() -> dict[str, Any]:
        if not keys:
            raise Problem(403, "/reload needs an API key, and the server has none; start it with --api-key-file")
        try:
            changed = await models.reload()
        except GenrecError as error:
            raise Problem(409, str(error)) from error
        return {"changed": changed, "model": _model(models).digest}

    @app.get("/openapi.json", dependencies=guarded, include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return openapi_of(app)


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the rows of the model that is being served.

    Args:
        app: of :func:`create_app`.
    """
    service: ScoreService = app.state.service
    model = service.models.current
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    operation = score_operation(None if model is None else model.schema, service.settings)
    found = document["paths"]["/score"]["post"]
    if "security" not in found:
        del operation["responses"]["401"]
    found |= operation
    return document


def _health(models: Models) -> dict[str, Any]:
    model, failure = models.current, models.failure
    found: dict[str, Any] = {"status": "ready" if model is not None else "failed" if failure else "loading"}
    if model is not None:
        found |= {"model": model.digest, "age_seconds": round(time.time() - model.loaded_at, 1)}
    if failure is not None:
        found["reload_error"] = {"directory": failure.directory, "error": failure.error, "at": failure.at}
    return found


def _model(models: Models) -> Model:
    if models.current is None:
        raise Problem(503, "no model is loaded yet; /health says more", retry_after=1)
    return models.current


def _no_model() -> _Responses:
    return {503: problem_schema("no model is loaded")}


def _text(responses: _Responses) -> _Responses:
    return {**responses, 200: {"description": "counters", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}}


def _hashed(key: str) -> bytes:
    """Digests have one length, so that comparing them tells nothing of the key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
