"""Whatever is asked of the API, it answers as its own description says: calls drawn from that by schemathesis.

All checks are on: no server error, answers of the described status, type and shape, what breaks the description is
refused, what keeps it is taken, and nothing is told without a token. `API_EXAMPLES` draws more.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from sqlalchemy import create_engine

from headwater.cloud.api.app import create_app
from headwater.cloud.api.service import Api, Standing
from headwater.cloud.history import History
from support.api import OPERATOR, fill, served, tokens

EXAMPLES = int(os.environ.get("API_EXAMPLES", "12"))
SEED = 20_260_102
# What fits the description may be refused all the same: that fields do not go together no schema says.
TAKEN = ["2xx", "401", "403", "404", "409", "422"]
CONFIG = {"checks": {"positive_data_acceptance": {"expected-statuses": TAKEN}}}


def operations() -> list[tuple[str, str]]:
    """Every path and method, by a description that needs no database."""
    api = Api(History(create_engine("sqlite://"), "none"), "plant", Standing, lambda: datetime.now(UTC), str)
    described = create_app(api, None)._app.openapi()  # type: ignore[attr-defined]
    return [(path, method) for path, methods in described["paths"].items() for method in methods]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    url = f"sqlite:///{folder / 'history.db'}"
    fill(folder / "run", url)
    with served(url, tokens(folder)) as opened:
        yield schemathesis.openapi.from_asgi("/openapi.json", opened.app, config=SchemathesisConfig.from_dict(CONFIG))


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), operations(), ids=lambda value: value)
def test_whatever_is_asked_is_answered_as_described(schema: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = schema[path][method.upper()]
    if mode.is_negative and not list(operation.iter_parameters()) and not operation.body:
        pytest.skip("nothing of it can be wrong")

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=OPERATOR, base_url="http://127.0.0.1")

    asked()
