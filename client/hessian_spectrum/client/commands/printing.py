"""What commands print: JSON for programs, tables for people."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from hessian_spectrum.client.commands.options import Json
from hessian_spectrum.client.commands.writing import is_terminal, output_path, write_text
from hessian_spectrum.client.progress import SHORT_ID

_UNBOUNDED = 10_000
"""Width of a table that is not printed on a terminal, whose lines are not broken."""

_FOLDED_WIDTH = 12
"""Width to which a column may be narrowed whose cells are broken into lines."""

Cell = str | int | float | None


class Id(str):
    """An id, of which a terminal shows the beginning, unless another one in the same table begins so."""

    __slots__ = ()


@dataclass(frozen=True)
class Printer:
    """Prints the answer of a command.

    Attributes:
        path: Path of the output; None for standard output.
        as_json: Whether a program reads it.
    """

    path: Path | None
    as_json: bool

    def record(self, message: BaseModel | Mapping[str, Any]) -> None:
        """Print a message as JSON."""
        fields = message.model_dump(mode="json") if isinstance(message, BaseModel) else message
        write_text(self.path, json.dumps(fields, indent=2, ensure_ascii=False))

    def note(self, message: BaseModel | Mapping[str, Any]) -> None:
        """Print a message as JSON if the caller asks for an output, of a command that prints nothing otherwise."""
        if self.as_json or self.path is not None:
            self.record(message)

    def lines(self, lines: Sequence[str], records: Any) -> None:
        """Print lines for people, or JSON for programs."""
        write_text(self.path, json.dumps(records, indent=2, ensure_ascii=False) if self.as_json else "\n".join(lines))

    def table(
        self, rows: Sequence[Mapping[str, Cell]], records: Any, *, empty: str, folded: Collection[str] = ()
    ) -> None:
        """Print rows as a table with a line for each, or JSON for programs.

        Args:
            rows: Cells by the title of their column; all rows have the same columns.
            records: Messages, or what JSON can represent.
            empty: Printed to standard error if there are no rows.
            folded: Titles of the columns whose cells are broken into lines where a terminal is too narrow.
        """
        if self.as_json:
            write_text(self.path, json.dumps(_plain(records), indent=2, ensure_ascii=False))
        elif rows:
            write_text(self.path, _table_text(rows, folded, on_terminal=is_terminal(self.path)))
        else:
            typer.echo(empty, err=True)
            if self.path is not None:
                write_text(self.path, empty)


def printer(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write, as JSON if it ends in .json, or - for standard output."),
    ] = None,
    as_json: Json = False,
) -> Printer:
    """Interpret the options of commands that print an answer."""
    return Printer(output_path(output), as_json or (output is not None and output.suffix.lower() == ".json"))


def local_time(time: datetime) -> str:
    """Return a time in the time zone of the user."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _plain(records: Any) -> Any:
    if isinstance(records, Mapping | str):
        return records
    return [each.model_dump(mode="json") if isinstance(each, BaseModel) else each for each in records]


def _table_text(rows: Sequence[Mapping[str, Cell]], folded: Collection[str], *, on_terminal: bool) -> str:
    texts = _shortened if on_terminal else _full
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = [each for each in rows[0] if not (on_terminal and all(row[each] == "" for row in rows))]
    columns = [texts([row[title] for row in rows]) for title in titles]
    for title, shown, cells in zip(titles, texts(titles), columns, strict=True):
        is_whole = not on_terminal or title not in folded
        widest = max(map(cell_len, cells))
        table.add_column(
            shown,
            justify="left" if any(isinstance(row[title], str) for row in rows) else "right",
            no_wrap=is_whole,
            overflow="fold",
            min_width=max(cell_len(shown), widest if is_whole else min(widest, _FOLDED_WIDTH)),
        )
    for row_cells in zip(*columns, strict=True):
        table.add_row(*row_cells)
    return _drawn(table, on_terminal=on_terminal)


def _drawn(table: Table, *, on_terminal: bool) -> str:
    forced = None if on_terminal else False  # standard output may be a terminal beside the file
    console = Console(force_terminal=forced, highlight=False, markup=False, emoji=False)
    narrowest = Measurement.get(console, console.options, table).minimum
    console.width = max(console.width, narrowest) if on_terminal else _UNBOUNDED  # a narrower terminal breaks the lines
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _shortened(cells: Iterable[Cell]) -> list[str]:
    cells = list(cells)
    ids = {each for each in cells if isinstance(each, Id)}
    are_unique = len({each[:SHORT_ID] for each in ids}) == len(ids)
    return [each[:SHORT_ID] if isinstance(each, Id) and are_unique else _text(each) for each in cells]


def _full(cells: Iterable[Cell]) -> list[str]:
    return [_text(each) for each in cells]


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.10g}" if isinstance(cell, float) else str(cell)
