"""Law: the application is its paths behind one gate; its description, OpenAPI, is made from them."""

from importlib.metadata import version
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer

from headwater.cloud.api import fleets, health, models, nodes, releases, rounds, runs
from headwater.cloud.api.gate import Application, Gate
from headwater.cloud.api.pages import only_known
from headwater.cloud.api.problems import tell_problems
from headwater.cloud.api.service import Api
from headwater.cloud.api.tokens import TokenBook
from headwater.schemas.http import PREFIX, Problem

DESCRIPTION: Final = (
    "The round history of a cloud coordinator, the runs that are asked of it, and the releases of its devices' "
    "software. Every path below `/api/v1` wants `Authorization: Bearer TOKEN` where the coordinator has a file of "
    "tokens: a viewer's to read, an operator's to start, stop, pause and resume. Problems are told as RFC 9457 says "
    "it. Lists come in pages."
)

_TOKEN: Final = HTTPBearer(auto_error=False, scheme_name="token", description="Made by `headwater token add`.")


def create_app(api: Api, book: TokenBook | None) -> Application:
    """The API of one history.

    Args:
        book: who may do what; without it whoever is on this machine may read.
    """
    app = FastAPI(
        title="Headwater", version=version("headwater"), description=DESCRIPTION, docs_url=None, redoc_url=None
    )
    tell_problems(app)
    app.include_router(health.router(api))
    # The gate has judged by the time that a path is reached; here it is only described.
    described = [Depends(_TOKEN), Depends(only_known)]
    for paths in (fleets, runs, rounds, models, nodes, releases):
        app.include_router(paths.router(api), prefix=PREFIX, dependencies=described)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return Gate(app, book)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """With the shape of problems, which no path answers with in words of its own."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = made["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = made
    return app.openapi_schema
