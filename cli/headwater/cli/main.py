"""Law: one command for everything; each ends with a result, or with one clear sentence and its own exit code.

0 done   1 unexpected   2 configuration   3 broker unreachable   4 access refused
5 data   6 model   7 database   8 run failed   130 interrupted
"""

import os
import sys
from typing import Final

from headwater.schemas.errors import HeadwaterError
from headwater.schemas.loading import loading
from headwater.schemas.quiet import QUIET

_EXTRAS: Final = {
    "typer": "cli",
    "rich": "cli",
    "mlflow": "mlflow",
    "tensorboardX": "tensorboard",
    "nicegui": "dashboard",
    "httpx": "dashboard",
    "cryptography": "trust",
    "prometheus_client": "metrics",
}
"""The part of Headwater that brings a library along; `headwater-device` does without the command line."""


def main() -> int:
    """The console script. A wrong call ends in the command-line library's own words, with 2."""
    os.environ.update(QUIET)
    try:
        with loading():
            from headwater.cli.app import app
        app()
    except ModuleNotFoundError as error:
        print(f"headwater: {error.name} is missing; pip install 'headwater[{_extra(error.name)}]'", file=sys.stderr)
        return 2
    except HeadwaterError as error:
        print(f"headwater: {error}", file=sys.stderr)
        return error.exit_code
    except ValueError as error:
        told = _unforeseen(error)
        if told is None:
            raise
        print(f"headwater: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _unforeseen(error: ValueError) -> str | None:
    """What does not fit where no command has looked, without its value, which may be private; None of all else."""
    from pydantic import ValidationError

    from headwater.schemas.config import in_words

    if not isinstance(error, ValidationError):
        return None
    return f"{error.title}: {in_words(error)}; give another value, and tell the maintainers that no command said so"


def _extra(module: str | None) -> str:
    return _EXTRAS.get((module or "").partition(".")[0], "testbed")


if __name__ == "__main__":
    sys.exit(main())
