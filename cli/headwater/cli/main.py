"""Law: one command for everything; each ends with a result, or with one clear sentence and its own exit code.

0 done   1 unexpected   2 configuration   3 broker unreachable   4 access refused
5 data   6 model   7 database   8 run failed   130 interrupted
"""

import sys

from headwater.schemas.errors import HeadwaterError


def main() -> int:
    """The console script."""
    try:
        import click

        from headwater.cli.app import app
    except ModuleNotFoundError as error:
        print(
            f"headwater: {error.name} is missing; pip install 'headwater[cli]', or run headwater-device",
            file=sys.stderr,
        )
        return 2
    try:
        result = app(standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        return 130
    except HeadwaterError as error:
        print(f"headwater: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"headwater: {error.name} is missing; pip install 'headwater[testbed]'", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
