"""Law: a table is lines of cells with a key each; what a browser is given of it is plain data."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """`is_whole`: it is too short to be broken over lines."""

    label: str
    is_number: bool = False
    is_whole: bool = False


class Cell(NamedTuple):
    """`href` makes it a link, `mark` the class of a state's mark."""

    text: str
    href: str = ""
    mark: str = ""


class Line(NamedTuple):
    """A row; its key is what it is about, and the same as long as that is."""

    key: str
    cells: tuple[Cell, ...]


def line(key: str, *cells: str | Cell) -> Line:
    return Line(key, tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells))


def node(name: str) -> Cell:
    """A link to a node's page."""
    return Cell(name, f"/node/{name}" if name else "")


def run(name: str) -> Cell:
    return Cell(name, f"/run/{name}" if name else "")


def mark(state: str, text: str | None = None) -> Cell:
    return Cell(text or state, "", f"hw-state {state}")


def as_columns(columns: Sequence[Column]) -> list[dict[str, Any]]:
    return [{"label": column.label, "num": column.is_number, "whole": column.is_whole} for column in columns]


def as_rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [{"key": told.key, "cells": [cell._asdict() for cell in told.cells]} for told in lines]
