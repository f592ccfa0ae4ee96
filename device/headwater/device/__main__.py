"""Law: the agent starts without a command-line library: one TOML file, and the environment over it.

python -m headwater.device device.toml
"""

import os
import sys
from pathlib import Path

from headwater.device.service import serve
from headwater.node.logs import set_up_logging
from headwater.node.service import run_service
from headwater.schemas.config import load
from headwater.schemas.errors import HeadwaterError
from headwater.schemas.settings import CloudSettings, DeviceSettings, GatewaySettings

USAGE = "usage: headwater-device [DEVICE.toml]      settings: docs/examples/device.toml, or HEADWATER_* variables"


def main() -> int:
    arguments = sys.argv[1:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(USAGE)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        settings = load(
            DeviceSettings,
            Path(arguments[0]) if arguments else None,
            environment=os.environ,
            others=(GatewaySettings, CloudSettings),
        ).value
    except HeadwaterError as error:
        print(f"headwater-device: {error}", file=sys.stderr)
        return error.exit_code
    set_up_logging(settings.log, settings.node)
    return run_service(lambda: serve(settings))


if __name__ == "__main__":
    sys.exit(main())
