"""Law: a schema is brought up to date within the transaction that found it old; only who must do that loads Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection


def upgrade(connection: Connection, migrations: Path) -> None:
    """To the newest of a folder's revisions. Raises ValueError with the reason."""
    try:
        command.upgrade(configured(connection, migrations), "head")
    except CommandError as error:
        raise ValueError(str(error)) from None


def configured(connection: Connection, migrations: Path) -> Config:
    """What Alembic's commands are given."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    return config
