"""Law: a database is opened whole or not at all: reachable, migrated, and no newer than this software.

SQLite runs in WAL mode with `synchronous=FULL`: what was announced was committed, and a commit survives a power cut.
Writers take the lock when they begin, so two processes wait for each other instead of failing half-way; readers take
none. On PostgreSQL whoever stops in the midst of a transaction loses it after `BUSY_TIMEOUT_S`: a coordinator that
hangs cannot keep another from taking over.
"""

import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from headwater.cloud.history.faults import reason
from headwater.cloud.history.history import History
from headwater.cloud.history.transactions import READS
from headwater.schemas.errors import HistoryError

BUSY_TIMEOUT_S: Final = 15.0
WAL_PAUSE_S: Final = 0.05
MIGRATIONS: Final = Path(__file__).parent / "migrations"
MIGRATING: Final = 0x6865616477617465
"""The advisory lock by which one process at a time migrates a PostgreSQL database."""


def open_history(url: str, *, creates: bool = True) -> History:
    """Open or migrate the database of an SQLAlchemy URL, or create it unless told otherwise; close the history when
    done.

    Raises:
        HistoryError: not reachable, of a newer schema, or no database; the password of the URL is never shown.
    """
    address = _address(url)
    shown = address.render_as_string(hide_password=True)
    if not creates and _is_missing(address):
        raise HistoryError(
            f"database {shown}: there is no such file; name the cloud's by --database or HEADWATER_DATABASE, from the "
            "right folder"
        )
    engine = _engine(address)
    try:
        _migrate(engine, shown)
    except (DBAPIError, OSError) as error:
        engine.dispose()
        raise HistoryError(f"database {shown}: {reason(error)}; check that it runs and may be written") from None
    return History(engine, shown)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise HistoryError("database: no SQLAlchemy URL; give sqlite:///FILE or postgresql://USER@HOST/NAME") from None
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    return address


def _is_missing(address: URL) -> bool:
    """Of a database that is a file: one in memory, or on a server, is there or not when it is asked."""
    file = address.database or ":memory:"
    return address.get_backend_name() == "sqlite" and not file.startswith((":", "file:")) and not Path(file).exists()


def _engine(address: URL) -> Engine:
    try:
        if address.get_backend_name() == "sqlite":
            engine = create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_S})
            _set_up_sqlite(engine)
            return engine
        # A server that vanished without a word is given up after as long.
        patience = {"connect_timeout": round(BUSY_TIMEOUT_S), "tcp_user_timeout": round(BUSY_TIMEOUT_S * 1000)}
        engine = create_engine(address, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S, connect_args=patience)
        _set_up_postgresql(engine)
        return engine
    except (NoSuchModuleError, ImportError) as error:
        raise HistoryError(
            f"database: no driver for {address.drivername} ({error}); for PostgreSQL pip install 'headwater[postgres]'"
        ) from None


def _set_up_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        # The driver must not begin transactions by itself: `begin` below does, with the lock taken at once.
        connection.isolation_level = None
        _write_ahead(connection, engine.dialect.dbapi)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        reads = connection.get_execution_options().get(READS)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _write_ahead(connection: Any, driver: Any) -> None:
    """SQLite's own patience does not hold for this switch: another process that is just opening a new file fails it."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except driver.OperationalError as error:
            if error.sqlite_errorcode != driver.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(WAL_PAUSE_S)


def _set_up_postgresql(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(f"SET {limit} = {round(BUSY_TIMEOUT_S * 1000)}")
        connection.commit()


def revisions() -> tuple[str, ...]:
    """The schemas that this software knows, the oldest first: each migration's file begins with its own."""
    return tuple(sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py")))


def _migrate(engine: Engine, shown: str) -> None:
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATING)))
        found, known = _revision(connection), revisions()
        if found == known[-1]:
            return
        if found is not None and found not in known:
            raise HistoryError(
                f"database {shown}: its schema {found} is newer than this software's {known[-1]}; upgrade Headwater, "
                "or point to another database"
            )
        # Most starts find nothing to do, and Alembic would be a sixth of what they load.
        from headwater.cloud.history.migrating import upgrade

        try:
            upgrade(connection, MIGRATIONS)
        except ValueError as error:
            raise HistoryError(f"database {shown}: cannot be migrated: {error}") from None


def _revision(connection: Any) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(found) if found else None
