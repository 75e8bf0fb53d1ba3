"""What commands print: JSON for programs, tables for people."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

_UNBOUNDED = 10_000
"""Width of a table that is not printed on a terminal, whose lines are not broken."""

Cell = str | int | float | None


def print_message(message: BaseModel) -> None:
    """Print a message as JSON."""
    typer.echo(message.model_dump_json(indent=2))


def print_messages(messages: Sequence[BaseModel]) -> None:
    """Print messages as a JSON list."""
    typer.echo(json.dumps([message.model_dump(mode="json") for message in messages], indent=2))


def print_table(rows: Sequence[Mapping[str, Cell]], *, empty: str) -> None:
    """Print rows as a table with a line for each.

    Args:
        rows: Cells by the title of their column; all rows have the same columns.
        empty: Printed to standard error if there are no rows.
    """
    if not rows:
        typer.echo(empty, err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, cell in rows[0].items():
        table.add_column(title, justify="left" if isinstance(cell, str) else "right", no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*map(_text, row.values()))
    if sys.stdout.isatty():
        Console(highlight=False, markup=False, emoji=False).print(table)
        return
    console = Console(width=_UNBOUNDED, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.10g}" if isinstance(cell, float) else str(cell)
