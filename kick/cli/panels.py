"""The groups of commands in the help, and the help of commands that take methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from kick import catalog
from kick.errors import KickError
from kick.registry import unknown

GROUPS = RUN, READ, COMPRESS, STUDY, SHARE = "Run", "Read results", "Compress", "Study", "Share"
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}  # options of methods are not Typer's
HOW = (
    "--method NAME: the options that follow are the method's own. Again for a further step: "
    "--method wanda --sparsity 0.5 --method rtn --bits 4. --help beside --method NAME lists its options."
)


class Grouped(TyperGroup):
    """All commands, group by group, in the order of GROUPS."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, those of a group together."""
        panels = {name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()}
        place: dict[Any, int] = {panel: number for number, panel in enumerate(GROUPS)}
        return sorted(super().list_commands(ctx), key=lambda name: place.get(panels[name], len(GROUPS)))


class Site(TyperGroup):
    """The commands of `kick site`; `kick site FOLDER`, which names none, is `kick site build FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `build` before a folder, or before nothing."""
        known = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if known else ["build", *args])


class MethodCommand(TyperCommand):
    """A command whose recipe is `--method NAME --option value ...`: its help lists these."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember the words before `--help` ends the reading of them."""
        ctx.meta["kick.words"] = list(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's own help, then a panel of methods, or one for each `--method` given."""
        names = named(ctx.meta.get("kick.words", ()))
        for name in names:
            if name not in catalog.known():
                raise KickError(unknown("method", name, catalog.known()))
        super().format_help(ctx, formatter)
        console = Console()
        for panel in [_options(name) for name in names] or [_methods()]:
            console.print(panel)


def named(words: Sequence[str]) -> list[str]:
    """The methods in a command's words, each once."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    found = [word.partition("=")[2] or after for word, after in pairs if word.partition("=")[0] == "--method"]
    return list(dict.fromkeys(name for name in found if name and not name.startswith("-")))


def _methods() -> Panel:
    table = _table()
    for facts in catalog.known().values():
        table.add_row(facts.name, facts.kind, escape(facts.title))
    grid = Table.grid()
    grid.add_row(HOW)
    grid.add_row(table)
    return _panel(grid, "Methods")


def _options(name: str) -> Panel:
    from kick import compress

    table = _table()
    for option in compress.describe(name)["options"]:
        default = "required" if option["required"] else f"default {option['default']}"
        choices = f"; one of {', '.join(map(str, option['choices']))}" if option["choices"] else ""
        text = f"{option['help']} ({option['type']}; {default}{choices})"
        table.add_row(f"--{option['name'].replace('_', '-')}", escape(text))
    return _panel(table, f"Options of --method {name}")


def _table() -> Table:
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def _panel(content: Any, title: str) -> Panel:
    return Panel(content, title=title, title_align="left", border_style="dim")
