"""The help: commands in groups, methods and their options."""

import pytest

from kick import cli
from kick.catalog import known
from kick.runtime.entry import runtimes


def shown(capsys, monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code or 0, capsys.readouterr()


def test_commands_are_in_groups(capsys, monkeypatch):
    _, told = shown(capsys, monkeypatch, "--help")
    groups = [f"─ {group} ─" for group in ("Run", "Read results", "Compress", "Study", "Share")]
    assert sorted(groups, key=told.out.index) == groups


@pytest.mark.parametrize("command", [["compress"], ["study", "components"]])
def test_help_lists_methods(capsys, monkeypatch, command):
    _, told = shown(capsys, monkeypatch, *command, "--help")
    assert "--method" in told.out
    assert all(name in told.out and facts.title in told.out for name, facts in known().items())


def test_the_markdown_lists_have_every_method_those_of_run_time_too(capsys, monkeypatch):
    _, told = shown(capsys, monkeypatch, "methods", "--markdown")
    assert all(f"**`{name}`**" in told.out for name in (*known(), *runtimes.facts()))


def test_help_of_a_method_lists_its_options(capsys, monkeypatch):
    status, told = shown(capsys, monkeypatch, "compress", "--method", "wanda", "--method=rtn", "--help")
    assert status == 0
    assert "Options of --method wanda" in told.out
    assert "--group-size" in told.out.partition("Options of --method rtn")[2]
    status, told = shown(capsys, monkeypatch, "compress", "--method", "wnda", "--help")
    assert status == 2
    assert "did you mean 'wanda'" in told.err
