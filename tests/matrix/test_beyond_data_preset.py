"""The preset of what needs a mirror or the hub: what it comes to, and that it is refused without them."""

from typer.testing import CliRunner

from kick import tasks
from kick.cli import app
from kick.errors import KickError
from kick.matrix.load import load


def test_it_asks_every_language_and_gsm8k_of_few_items():
    matrix = load("beyond-data")
    asked = tasks.index.expand(matrix.tasks)
    languages = [name.split("_")[2] for name in asked if name.startswith("kick_xquad_")]
    assert sorted(languages) == sorted(2 * ["en", "de", "es", "ru", "zh", "tr", "hi"])
    assert set(asked) == {*tasks.index.expand(["kick_beyond_data"]), "kick_gsm8k"}
    assert set(matrix.limit) == set(matrix.tasks)
    assert len(matrix.variants) == 3


def test_without_mirror_and_hub_it_is_refused_in_a_line_per_data_set(monkeypatch, tmp_path):
    monkeypatch.delenv("KICK_DATA_ROOT", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = CliRunner().invoke(app, ["plan", "beyond-data", "--offline"])
    assert isinstance(found.exception, KickError)
    lines = str(found.exception).splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("google/xquad", "openai/gsm8k"), strict=True):
        assert f"needs the data set {name}; searched: no local mirror" in line
