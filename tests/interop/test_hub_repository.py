"""Results pushed to and pulled from a stand-in of the hub."""

import json
import shutil
from dataclasses import replace

import fsspec
import pytest
import yaml

from kick import cli, hub
from kick.analysis import cost
from kick.errors import KickError
from kick.interop import hub_repository
from kick.model.source import locate, resolve
from kick.store import Store, costs
from tests.support.hub_server import TOKEN, serving

NAME = "someone/kick-results"


@pytest.fixture
def there(monkeypatch, tmp_path):
    """A hub on this machine; the libraries ask it alone."""
    import huggingface_hub.constants as constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub._answers.cache_clear()
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    hub._answers.cache_clear()


def measured(folder):
    dense = next(run.cell.variant for run in Store(folder).runs() if run.cell.variant.dense)
    return {"variant": "dense", "identity": cost.identity(dense), "decode": 1.0}


@pytest.fixture
def results(smoke_results, tmp_path):
    folder = shutil.copytree(smoke_results / "smoke", tmp_path / "smoke")
    costs.write(Store(folder).files, "", [measured(folder)])
    (folder / "notes.txt").write_text("of nobody's business")
    return str(folder)


def kick(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    return ended.value.code or 0, capsys.readouterr()


def test_a_push_is_a_dry_run_unless_told(there, results, capsys):
    status, told = kick(capsys, "push", results, NAME)
    assert status == 0
    assert "a dry run: nothing was sent" in told.err
    assert "# What compression does to smoke" in told.out
    assert there.seen == []


def test_what_was_pushed_is_pulled_cell_by_cell(there, results, capsys, tmp_path):
    status, told = kick(capsys, "push", results, NAME, "--yes")
    assert status == 0, told.err
    (sha, files) = there.repositories[NAME][0]
    assert f"/commit/{sha}" in told.out
    assert there.private[NAME] is True
    assert not [path for path in files if "notes" in path]
    assert TOKEN not in told.out + told.err
    _, front, text = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front)["configs"][0]["data_files"] == "*/*/samples.parquet"
    assert "wanda" in text
    assert f"kick pull {NAME}" in text
    out = tmp_path / "pulled"
    status, told = kick(capsys, "pull", NAME, "--out", str(out))
    assert status == 0, told.err
    assert f"6 cells taken, 0 there already, of commit {sha}" in told.out
    ours, theirs = Store(results), Store(out, "smoke")
    for run in ours.runs():
        assert theirs.result(run.key).scores == run.scores
        assert theirs.samples(run.key) == ours.samples(run.key)
    assert theirs.costs() == [measured(results)]
    assert "0 cells taken, 6 there already" in kick(capsys, "pull", NAME, "--out", str(out))[1].out


def test_answers_that_no_page_shows_are_sent_only_if_told(there, results, capsys, monkeypatch):
    real = hub_repository.info
    hidden = next(Store(results).runs()).cell.task.name

    def told_apart(run):
        return replace(real(run), unshown="answers to harmful requests" * (run.cell.task.name == hidden))

    whole = hub_repository.prepare(results, NAME)
    monkeypatch.setattr(hub_repository, "info", told_apart)
    without = hub_repository.prepare(results, NAME)
    gone = whole.files.keys() - without.files.keys()
    assert {whole.store.result(path.split("/")[1]).cell.task.name for path in gone} == {hidden}
    assert len(without.left) == len(gone) / 2 == whole.cells - without.cells > 0
    status, said = kick(capsys, "push", results, NAME)
    assert status == 0
    assert f"{hidden}: answers to harmful requests; --unshown sends it" in said.err
    assert hub_repository.prepare(results, NAME, unshown=True).files == whole.files
    monkeypatch.setattr(hub_repository, "info", lambda run: replace(real(run), unshown="answers"))
    with pytest.raises(KickError, match=r"has only .*: --unshown sends them"):
        hub_repository.prepare(results, NAME)


def test_a_pull_takes_a_named_commit_and_leaves_damaged_cells(there, results, tmp_path, capsys):
    what = hub_repository.prepare(results, NAME)
    there.repositories[NAME] = []
    sent = {path: what.store.files.read(place) for path, place in what.files.items()}
    first = there.commit(NAME, sent)
    path = next(path for path in what.files if path.endswith("samples.parquet"))
    there.commit(NAME, {path: b"PAR1 of somebody else"})
    status, told = kick(capsys, "pull", NAME, "--out", str(tmp_path / "a"))
    assert status == 0
    assert "left out: smoke/" in told.err
    assert "5 cells taken" in told.out
    found = hub_repository.pull(NAME, str(tmp_path / "b"), first)
    assert (found.taken, found.left, found.commit) == (6, (), first)


def test_what_the_hub_refuses_is_one_line_without_the_token(there, results, monkeypatch, capsys):
    status, told = kick(capsys, "pull", "someone/absent")
    assert status == 2
    assert "the hub refused someone/absent: HTTP 404; is it there?" in told.err
    monkeypatch.setenv("HF_TOKEN", "hf_another_token")
    status, told = kick(capsys, "push", results, NAME, "--yes")
    assert status == 2
    assert "HTTP 401; is HF_TOKEN set?" in told.err
    assert "hf_another" not in told.err


def test_names_and_empty_folders_are_refused_before_the_hub_is_asked(there, results, tmp_path, capsys):
    with pytest.raises(KickError, match="expected owner/name"):
        hub_repository.prepare(results, "../x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(KickError, match="no finished cell"):
        hub_repository.prepare(str(tmp_path / "empty"), NAME)
    status, told = kick(capsys, "push", str(tmp_path / "absent"), NAME)
    assert (status, told.out) == (2, "")
    assert "is not a folder of results" in told.err
    assert there.seen == []


def test_costs_of_every_matrix_travel_wherever_they_were_put(results, tmp_path):
    """A record in the folder above the matrices, where `kick cost` put it once, and one in a matrix's own."""
    root = tmp_path / "root"
    shutil.copytree(results, root / "smoke")
    record = measured(results)
    other = {**record, "identity": "of another model"}
    costs.write(Store(root).files, "", [{**record, "decode": 2.0}, other])
    what = hub_repository.prepare(str(root), NAME)
    sent = json.loads(what.texts["smoke/costs.json"])["costs"]
    assert sorted(one["decode"] for one in sent) == [1.0, 2.0]


def test_a_push_reads_a_file_at_a_time(results, tmp_path):
    what = hub_repository.prepare(results, NAME)
    files = dict(hub_repository._on_disk(what, tmp_path / "unused"))
    assert files.keys() == what.files.keys()
    assert what.size == sum(file.stat().st_size for file in files.values()) + sum(
        len(text.encode()) for text in what.texts.values()
    )
    assert not (tmp_path / "unused").exists(), "a local store's files are sent from where they are"
    there = fsspec.filesystem("memory")
    there.put(results, "/pushed", recursive=True)
    far = hub_repository.prepare("memory://pushed", NAME)
    for path, file in hub_repository._on_disk(far, tmp_path / "scratch"):
        assert file.read_bytes() == files[path].read_bytes()
    assert far.size == what.size


def test_offline_nothing_is_asked(results, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(KickError, match="the hub cannot be asked"):
        hub_repository.pull(NAME, "results")


def test_a_model_of_the_hub_is_pinned_to_its_commit(monkeypatch, tmp_path):
    """A snapshot in the hub's cache: the record names its commit, and the key does not change by it."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    sha = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--someone--model"
    shutil.copytree(locate("smoke"), home / "snapshots" / sha)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(sha)
    found = resolve("someone/model")
    assert found.revision == sha
    assert resolve("someone/model", sha) == found
    assert resolve(str(home / "snapshots" / sha)).digest == found.digest
    assert json.loads(json.dumps(found.revision)) == sha
