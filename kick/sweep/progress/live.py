"""A sweep as a live view in a terminal: the grid of cells, the running jobs, the totals."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kick.sweep.contract import Event
from kick.sweep.progress.board import Board, CellState, Running, duration
from kick.sweep.progress.lines import how_far

MARKS: dict[CellState | None, tuple[str, str, str]] = {  # in a terminal, in an old one, and its colour
    "open": ("·", ".", "dim"),
    "running": ("▶", ">", "cyan"),
    "done": ("✓", "+", "green"),
    "failed": ("✗", "x", "bold red"),
    "elsewhere": ("⇄", "~", "yellow"),
    None: (" ", " ", ""),
}
FAILURES = 5  # how many causes are shown


class LiveView:
    """Redraws the board in place; what it looked like at the end stays."""

    def __init__(self, console: Console):
        self._console = console
        self._board: Board | None = None
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._draw, transient=False)
        self._said: list[str] = []

    def open(self, board: Board) -> None:
        """Start drawing."""
        self._board = board
        self._live.start()

    def event(self, event: Event, board: Board) -> None:
        """The board shows it; what is said once stays above it."""
        if event.kind in ("stop", "halt", "end"):
            self._console.print(Text(event.message, "bold" if event.kind == "halt" else ""))

    def tick(self, board: Board) -> None:
        """Nothing: the view redraws itself."""

    def close(self, board: Board) -> None:
        """Draw a last time, and stop."""
        self._live.stop()

    def _draw(self) -> RenderableType:
        return Text("") if self._board is None else draw(self._board, self._console)


def draw(board: Board, console: Console) -> RenderableType:
    """The board as it fits the console."""
    width, height = console.size
    running = list(board.running.items())[: max(1, height // 4)]
    failed = [(key, board.notes.get(key, "")) for key, state in board.states.items() if state == "failed"]
    below = 4 + len(running) + min(len(failed), FAILURES)
    parts: list[RenderableType] = [_grid(board, console, max(3, height - below - 3), width)]
    parts += [_running_line(name, one) for name, one in running]
    parts += _failures(board, failed, width)
    parts.append(_totals(board))
    if board.message:
        parts.append(Text(board.message, "yellow"))
    return Group(*parts)


def _grid(board: Board, console: Console, rows: int, width: int) -> RenderableType:
    """A row a variant, a column a task; too tall, it shows those that run or failed first."""
    every = list(board.rows())
    shown = every
    if len(every) > rows:
        rank = {"running": 0, "failed": 1, "elsewhere": 2, "open": 3, "done": 4, None: 5}
        order = sorted(every, key=lambda row: min((rank[state] for state in row[1]), default=9))
        chosen = {variant for variant, _ in order[: rows - 1]}
        shown = [row for row in every if row[0] in chosen]
    column = max(3, (width - 30) // max(1, len(board.tasks)))
    table = Table(box=None, padding=(0, 1), show_edge=False)
    table.add_column("variant", no_wrap=True, max_width=28)
    for task in board.tasks:
        table.add_column(_short(task, column - 2), justify="center", no_wrap=True)
    plain = console.encoding.lower().replace("-", "") != "utf8"
    for variant, states in shown:
        table.add_row(Text(variant), *(Text(MARKS[state][plain], MARKS[state][2]) for state in states))
    if len(shown) < len(every):
        table.add_row(Text(f"and {len(every) - len(shown)} more variants", "dim"))
    return table


def _short(task: str, width: int) -> str:
    """A task's name cut to the width at its beginning, which tasks of a suite share."""
    return task if len(task) <= width else task[-max(1, width) :]


def _running_line(name: str, one: Running) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, one.asked), completed=one.answered, width=20)
    line.add_row(Text("▶", "cyan"), Text(name, "bold"), bar, Text(how_far(one)), Text(one.worker, "dim"))
    return line


def _failures(board: Board, failed: list[tuple[str, str]], width: int) -> list[RenderableType]:
    names = {cell.key: f"{variant} {task}" for (variant, task), cell in board.cells.items()}
    lines: list[RenderableType] = [
        Text(f"✗ {names[key]}: {cause}"[:width], "red") for key, cause in failed[:FAILURES]
    ]
    return [*lines, Text(f"and {len(failed) - FAILURES} more failed")] if len(failed) > FAILURES else lines


def _totals(board: Board) -> RenderableType:
    counts = board.counts
    said = [f"{counts['done']} of {len(board.states)} cells done"]
    said += [f"{counts[state]} {state}" for state in ("running", "failed", "elsewhere") if counts[state]]
    said.append(f"{duration(time.monotonic() - board.start)} so far")
    if counts["open"] + counts["running"]:
        said.append(f"about {duration(board.left())} left")
    return Text(", ".join(said), "bold")
