"""Law: the agent starts without a command-line library: one TOML file, and the environment over it.

python -m headwater.device device.toml
python -m headwater.device doctor [--json] device.toml
"""

import os
import sys
from pathlib import Path

from headwater.schemas.loading import loading

with loading():
    from headwater.device.service import serve
    from headwater.node.logs import set_up_logging
    from headwater.node.service import run_service
    from headwater.schemas.config import load
    from headwater.schemas.errors import HeadwaterError
    from headwater.schemas.settings import CloudSettings, DeviceSettings, GatewaySettings

USAGE = """\
usage: headwater-device [DEVICE.toml]                    run the agent
       headwater-device doctor [--json] [DEVICE.toml]    say what may stand in its way, and the mend
settings: docs/examples/device.toml, or HEADWATER_* variables"""


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["doctor"]:
        return _doctor(arguments[1:])
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


def _doctor(arguments: list[str]) -> int:
    # The agent itself has no need of it.
    from headwater.device.doctor.examine import as_json, doctor, exit_code_of, text

    files = [argument for argument in arguments if argument != "--json"]
    if len(files) > 1 or any(file.startswith("-") for file in files):
        print(USAGE)
        return 2
    findings = doctor(Path(files[0]) if files else None, environment=os.environ)
    print(as_json(findings) if "--json" in arguments else text(findings))
    return exit_code_of(findings)


if __name__ == "__main__":
    sys.exit(main())
