"""Commands that tell what there is: methods, tasks, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kick.cli import method_lists, panels
from kick.cli.terminal import Json, Plugins, TaskFolders, print_json, print_table

app = typer.Typer()
KIND = {"runtime": "at run time, as `runtime:` of a variant"}  # for people, if not the kind's own name


@app.command(rich_help_panel=panels.COMPRESS)
def methods(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown lists")] = False,
    plugins: Plugins = None,
) -> None:
    """List the methods of compression and of run time, with options, sources and needs."""
    from kick import compress
    from kick.runtime.method import describe_all

    described = [*compress.describe_all(), *describe_all()]
    if as_json:
        print_json(described)
        return
    if markdown:
        print(method_lists.markdown(described), end="")
        return
    for one in described:
        needs = f", needs {', '.join(one['needs'])}" if one.get("needs") else ""
        print(f"{one['name']}  {one['title']} ({one['paper']}; {KIND.get(one['kind'], one['kind'])}{needs})")
        for option in one["options"]:
            default = "required" if option["required"] else f"default {json.dumps(option['default'])}"
            choices = f"; one of {', '.join(map(str, option['choices']))}" if option["choices"] else ""
            print(f"    {option['name']}: {option['type']}, {default}{choices}. {option['help']}")


@app.command(rich_help_panel=panels.RUN)
def tasks(as_json: Json = False, tasks: TaskFolders = None) -> None:
    """List the tasks and groups; any of lm-eval's own can be named too."""
    from kick.tasks import describe

    described = describe([Path(folder) for folder in tasks or ()])
    if as_json:
        print_json(described)
        return
    rows = [
        [one["name"], one["kind"] or "", one["title"], ", ".join(one["members"] or one["metrics"])]
        for one in described
    ]
    print_table(["name", "kind", "title", "metrics or members"], rows)


@app.command(rich_help_panel=panels.RUN)
def doctor(as_json: Json = False) -> None:
    """Check what works on this machine, and how to fix the rest."""
    from kick.cli import doctor

    checks = doctor.check()
    if as_json:
        print_json(doctor.as_json(checks))
    else:
        print_table(["check", "state", "found", "fix"], [[c.name, c.state, c.found, c.fix] for c in checks])
    raise typer.Exit(0 if all(one.state != "missing" for one in checks) else 1)


@app.command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    rich_help_panel=panels.SHARE,
)
def lm_eval() -> None:
    """Run lm-eval's own command line, with kick's engine as `--model kick` and kick's tasks."""
    # never called: `main` hands its words to lm-eval before Typer reads any
