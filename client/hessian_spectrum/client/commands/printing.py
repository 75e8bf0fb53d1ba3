"""What commands print: JSON for programs, tables for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from hessian_spectrum.client.commands.options import Json
from hessian_spectrum.client.commands.writing import is_terminal, output_path, write_text
from hessian_spectrum.client.progress import SHORT_ID

_GAP = 2
"""Width of the space between two columns."""

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
        self, rows: Sequence[Mapping[str, Cell]], records: Any, *, empty: str, folded: Mapping[str, int] | None = None
    ) -> None:
        """Print rows as a table with a line for each, or JSON for programs.

        Args:
            rows: Cells by the title of their column; all rows have the same columns.
            records: Messages, or what JSON can represent.
            empty: Printed to standard error if there are no rows.
            folded: Least widths, by their titles, of the columns whose cells are broken into lines where a terminal is
                too narrow.
        """
        if self.as_json:
            write_text(self.path, json.dumps(_plain(records), indent=2, ensure_ascii=False))
        elif rows:
            write_text(self.path, _table_text(rows, folded or {}, on_terminal=is_terminal(self.path)))
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


def _table_text(rows: Sequence[Mapping[str, Cell]], folded: Mapping[str, int], *, on_terminal: bool) -> str:
    texts = _shortened if on_terminal else _full
    titles = [each for each in rows[0] if not (on_terminal and all(row[each] == "" for row in rows))]
    columns = [texts([row[title] for row in rows]) for title in titles]
    shown = texts(titles)
    needed = [max(map(cell_len, [title, *cells])) for title, cells in zip(shown, columns, strict=True)]
    # standard output may be a terminal beside the file that is written
    console = Console(force_terminal=None if on_terminal else False, highlight=False, markup=False, emoji=False)
    widths = needed
    if on_terminal:
        least = [folded.get(title, width) for title, width in zip(titles, needed, strict=True)]
        least = [max(cell_len(heading), each) for heading, each in zip(shown, least, strict=True)]
        widths = _narrowed(needed, least, console.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, heading, width in zip(titles, shown, widths, strict=True):
        is_text = any(isinstance(row[title], str) for row in rows)
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold", width=width)
    for row_cells in zip(*columns, strict=True):
        table.add_row(*row_cells)
    console.width = sum(widths) + _GAP * len(widths)  # a terminal that is narrower breaks the lines
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _narrowed(needed: Sequence[int], least: Sequence[int], available: int) -> list[int]:
    """Return widths of columns for a terminal, of which the widest are narrowed first, but not below the least."""
    widths = list(needed)
    for _ in range(sum(needed) + _GAP * (len(needed) - 1) - available):
        spare = [width if width > smallest else 0 for width, smallest in zip(widths, least, strict=True)]
        if not any(spare):
            break
        widths[spare.index(max(spare))] -= 1
    return widths


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
