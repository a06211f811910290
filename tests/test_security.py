"""What comes from elsewhere is data: models, task files, matrices and results that try to act find no way to.

Each test brings a hostile file and looks at what happened: whether its payload ran, what was written where,
what a browser, a spreadsheet or a terminal would be given.
"""

import csv
import hashlib
import json
import pickle
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kick import cli, model
from kick.errors import KickError
from kick.store import Store
from kick.store.json_files import render_run
from kick.store.samples import RESPONSES
from tests.support.hostile import ACTING, DENSE, FORMULAS, Pickled, parquet, put


@pytest.fixture
def kick(capsys):
    """Runs the command line here; gives (status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(one) for one in arguments])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


@pytest.fixture
def trap(tmp_path):
    """A file that only a payload which ran would make."""
    return tmp_path / "a payload ran here"


class Payload:
    """Makes the trap when it is unpickled."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return open, (str(self.trap), "w")


def matrix(tmp_path, text):
    file = tmp_path / "matrix.yaml"
    file.write_text(text)
    return file


# ------------------------------------------------------------------------------ models


def smoke_copy(tmp_path, **config):
    """The smoke model in a folder of its own, with these keys in its config.json."""
    folder = shutil.copytree(model.source.locate("smoke"), tmp_path / "model")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def code_in(folder, trap):
    """Code beside the model, under every name that its auto_map says."""
    for name in ("configuration_own", "modeling_own", "tokenization_own"):
        (folder / f"{name}.py").write_text(f"open({str(trap)!r}, 'w')\nOwn = None\n")
    parts = ("AutoConfig", "configuration_own.Own"), ("AutoModelForCausalLM", "modeling_own.Own")
    return {"auto_map": dict([*parts, ("AutoTokenizer", "tokenization_own.Own")])}


def test_a_model_that_is_code_of_its_own_is_refused(kick, tmp_path, trap):
    folder = smoke_copy(tmp_path, model_type="own", **code_in(tmp_path, trap))
    code_in(folder, trap)
    text = f"name: own\nmodel: {folder}\ntasks: [kick_mini_mcq]\nvariants: [dense]\n"
    for command in ("plan", "run"):
        status, _, err = kick(command, matrix(tmp_path, text), "--out", tmp_path / "results")
        assert status == 2
        assert "code of its own" in err
        assert "modeling_own" in err
    status, _, err = kick("plan", matrix(tmp_path, f"{text}trust_remote_code: true\n"))
    assert status == 2, "there is no way to ask for it"
    assert "trust_remote_code" in err
    assert not trap.exists()


def test_code_beside_a_known_model_is_not_run(tmp_path, trap):
    folder = smoke_copy(tmp_path, **code_in(tmp_path, trap))
    code_in(folder, trap)
    loaded, _ = model.load(model.resolve(str(folder)))
    assert type(loaded).__module__.startswith("transformers.")
    assert not trap.exists()


def test_a_pickled_checkpoint_is_refused_and_not_read(kick, tmp_path, trap):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(trap)))
    text = f"name: own\nmodel: {folder}\ntasks: [kick_mini_mcq]\nvariants: [dense]\n"
    status, _, err = kick("run", matrix(tmp_path, text), "--out", tmp_path / "results")
    assert status == 2
    assert "pytorch_model.bin" in err
    assert "can run code" in err
    assert not trap.exists()


def test_a_pickle_beside_safetensors_is_not_read(tmp_path, trap):
    folder = smoke_copy(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(trap)))
    model.load(model.resolve(str(folder)))
    assert not trap.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert trap.exists(), "the payload would have"


# ------------------------------------------------------------------------------ matrices and tasks


@pytest.mark.parametrize("place", ["name: {}", "name: x\nmodel: {}", "name: x\nvariants: [{{method: {}}}]"])
def test_a_matrix_cannot_call_anything(kick, tmp_path, trap, place):
    call = f'!!python/object/apply:os.system ["touch {trap.as_posix()!r}"]'
    status, _, err = kick("plan", matrix(tmp_path, place.format(call) + "\n"))
    assert status == 2
    assert "python/object/apply" in err
    assert not trap.exists()


def test_a_task_file_cannot_call_anything_by_yaml(kick, tmp_path, trap):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own.yaml").write_text(f"task: !!python/object/apply:builtins.open ['{trap}', w]\n")
    status, _, err = kick("tasks", "--tasks", folder)
    assert status == 2
    assert "not valid YAML" in err
    assert not trap.exists()


def test_a_function_of_a_task_file_runs_only_from_a_folder_that_was_named(kick, tmp_path, trap, monkeypatch):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own_code.py").write_text(
        f"open({str(trap)!r}, 'w')\ndef ask(doc):\n    return doc['question']\n"
    )
    (folder / "own.yaml").write_text(
        "task: own\ncustom_dataset: !function kick.tasks.data.embedded\ndataset_kwargs: {file: factoid}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: !function own_code.ask\n"
        "doc_to_target: answer\n"
    )
    monkeypatch.chdir(folder)
    text = "name: own\nmodel: smoke\ntasks: [{}]\nlimit: 2\nvariants: [dense]\n"
    for name in ("own", "own.yaml", "./own.yaml", str(folder / "own.yaml")):
        status, _, err = kick("plan", matrix(tmp_path, text.format(json.dumps(name))))
        assert status == 2
        assert "unknown task" in err
    assert kick("tasks", "--tasks", folder)[0] == 0
    assert not trap.exists(), "listing tasks runs nothing of them"
    status, out, err = kick("plan", matrix(tmp_path, text.format("own")), "--tasks", folder)
    assert status == 0, err
    assert "own" in out
    assert trap.exists()


# ------------------------------------------------------------------------------ results from elsewhere


def files_under(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


@pytest.mark.parametrize("name", ["../../outside", "/tmp/kick-outside", "a/../../../outside", "..", "\x00"])
def test_names_in_results_lead_nowhere(kick, tmp_path, request, name):
    if name.isprintable():  # what cannot be printed is drawn as well
        request.getfixturevalue("undrawn")
    results, out = tmp_path / "inside" / "results", tmp_path / "inside" / "out"
    _, key = put(results, variant=f"v{name}", task=name, matrix=name)
    before = files_under(tmp_path)
    assert kick("status", results)[0] == 0
    assert kick("leaderboard", results, "--out", out)[0] == 0
    assert kick("figures", results, "--out", out)[0] == 0
    assert kick("rescore", results)[0] in (0, 2)
    made = files_under(tmp_path) - before
    assert made
    assert all(one == "inside/out" or one.startswith("inside/out/") for one in made)
    assert all(one.count("/") <= 2 for one in made), "no folder inside the folder either"
    store = Store(results)
    for matrix_name in (name, f"theirs/../{name}"):
        with pytest.raises(KickError, match="cannot name a folder"):
            Store(results, matrix_name)
    with pytest.raises(KickError, match="cannot name a folder"):
        store.samples(f"../{key}")
    elsewhere = Store(tmp_path / "inside" / "new")
    with pytest.raises(KickError, match="cannot name a folder"):
        elsewhere.put(replace(store.result(key), matrix=name), store.samples(key))
    assert not (tmp_path / "inside" / "new").exists()


@pytest.mark.parametrize("what", ["scores", "items"])
def test_columns_that_would_be_unpickled_are_refused(kick, tmp_path, trap, what):
    payload = pickle.dumps(Payload(trap))
    keys = put(tmp_path)
    texts = {name: ["x"] for name in ("item", "prompt", "preview", "target", "group")}
    columns = {
        **{name: pa.array(one) for name, one in texts.items()},
        "responses": pa.array([["{}"]], RESPONSES),
    }
    columns["score:exact_match"] = pa.array([1.0])
    name = {"scores": "score:exact_match", "items": "item"}[what]
    columns[name] = pa.array([payload])
    data = parquet(columns)
    store = Store(tmp_path)
    for key in keys:
        result = store.result(key)
        about = {"file": "samples.parquet", "sha256": hashlib.sha256(data).hexdigest(), "rows": 1}
        folder = tmp_path / "theirs" / key
        (folder / "samples.parquet").write_bytes(data)
        (folder / "run.json").write_bytes(render_run(replace(result, samples=about)))
        for read in (store.samples, store.arrays):
            with pytest.raises(KickError, match=r"damaged.*column"):
                read(key)
    status, _, err = kick("leaderboard", tmp_path, "--out", tmp_path / "out")
    assert status == 2
    assert "damaged" in err
    assert not trap.exists()


def test_a_column_type_that_is_a_pickle_is_read_as_what_it_holds(tmp_path, trap, monkeypatch):
    monkeypatch.setattr(Pickled, "payload", pickle.dumps(Payload(trap)))
    (key, _) = put(tmp_path)
    file = tmp_path / "theirs" / key / "samples.parquet"
    table = pq.read_table(file)
    column = pa.ExtensionArray.from_storage(Pickled(), table["item"].combine_chunks())
    data = parquet(dict(zip(table.column_names, table.columns, strict=True)) | {"item": column})
    file.write_bytes(data)
    about = {"sha256": hashlib.sha256(data).hexdigest()}
    file.with_name("run.json").write_bytes(render_run(replace(Store(tmp_path).result(key), samples=about)))
    assert b"ARROW:schema" in data
    assert Store(tmp_path).arrays(key)[0][0] == "item 0"
    assert not trap.exists()


def test_derived_files_from_elsewhere_are_made_anew(tmp_path, trap, monkeypatch):
    monkeypatch.setattr("kick.store.index.SMALL", 1)
    put(tmp_path)
    for name in ("index.parquet", "statistics.parquet"):
        columns = {
            "path": ["../../outside/run.json"] * 2,
            "stamp": ["1"] * 2,
            "run": [pickle.dumps(Payload(trap))] * 2,
        }
        (tmp_path / name).write_bytes(parquet(columns))
    assert {run.matrix for run in Store(tmp_path).runs()} == {"theirs"}
    assert Store(tmp_path).recall() == {}
    assert not trap.exists()


# ------------------------------------------------------------------------------ pages and tables


class Page(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


@pytest.fixture
def acting(tmp_path):
    """Results of which every text acts where it can."""
    machine = {"processor": ACTING, ACTING: ACTING}
    put(tmp_path / "results", ACTING, ACTING, ACTING, ACTING, provenance={"machine": machine, "time": ACTING})
    return tmp_path / "results"


def test_nothing_in_results_acts_in_the_page(kick, acting, tmp_path):
    assert kick("leaderboard", acting, "--out", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    elements = Page(page).elements
    assert "alert(1)" in page
    assert [tag for tag, _ in elements].count("script") == 2, "the data and the page's own"
    assert not {"img", "iframe", "object", "link", "base", "form"} & {tag for tag, _ in elements}
    for _, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style")]
        assert attributes.get("href", "#").startswith("#")


def test_tables_as_text_hold_no_markup(kick, acting, tmp_path):
    assert kick("leaderboard", acting, "--out", tmp_path / "out")[0] == 0
    text = (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    assert "alert" in text
    assert not re.search(r"(?<!\\)<", text)
    for file in (tmp_path / "out").iterdir():
        if file.suffix in (".md", ".html", ".json"):
            assert not set("\x1b\x9b\x07") & set(file.read_text("utf-8")), file.name


@pytest.mark.parametrize(
    "name", ["a\r# heading", "a\n\n# heading", "a | b | c", "[x](javascript:alert(1))", "`a`"]
)
def test_a_name_stays_in_its_cell_of_a_markdown_table(kick, tmp_path, name):
    put(tmp_path / "results", variant=name, task=name)
    assert kick("leaderboard", tmp_path / "results", "--out", tmp_path / "out")[0] == 0
    text = (tmp_path / "out" / "leaderboard.md").read_bytes().decode()
    assert not [line for line in re.split(r"[\r\n]", text) if re.match(r"\s*# heading", line)]
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert tables
    for part in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines()}) == 1
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)`", text)


def test_no_cell_of_a_csv_is_a_formula(kick, undrawn, tmp_path):
    for number, text in enumerate(FORMULAS):
        put(tmp_path / "results", variant=f"{text}{number}", task=f"{text}{number}", matrix=text)
    out = tmp_path / "out"
    assert kick("leaderboard", tmp_path / "results", "--out", out)[0] == 0
    assert kick("figures", tmp_path / "results", "--out", out)[0] == 0
    files = sorted(out.glob("*.csv"))
    assert len(files) > 1
    number = re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?")
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.reader(stream))
        assert len({len(line) for line in lines}) == 1
        for cell in (cell for line in lines for cell in line):
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or number.fullmatch(cell), file.name
    with (out / "leaderboard.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {"'=cmd()0", "'-2+32"} < {row["variant"] for row in rows}
    assert min(float(row["gap"]) for row in rows if row["gap"]) < 0, "numbers stay numbers"


# ------------------------------------------------------------------------------ the terminal


def quiet(text):
    """Whether the text does nothing in a terminal but stand there."""
    return not set("\x1b\x9b\x07\x08\x0b\x0c\x0e\r\x00\x7f\u202e") & set(text)


def test_nothing_in_results_acts_in_the_terminal(kick, acting, tmp_path):
    store = Store(acting)
    key = next(run.key for run in store.runs() if run.cell.variant.name == ACTING)
    store.fail("0" * 16, ACTING, replace(DENSE, variant=replace(DENSE.variant, name=ACTING)))
    calls = [("status", acting), ("status", acting, "--json"), ("compare", acting, "dense", ACTING)]
    calls += [
        ("compare", acting, "dense", ACTING, "--json"),
        ("leaderboard", acting, "--out", tmp_path / "out"),
    ]
    calls += [("figures", acting, "--out", tmp_path / "out")]
    for call in calls:
        status, out, err = kick(*call)
        assert status == 0, err
        assert quiet(out), call
        assert quiet(err), call
    assert "alert(1)" in kick("status", acting)[1]
    for call in [("compare", acting, "dense", "no such"), ("reproduce", acting / "theirs" / key)]:
        status, out, err = kick(*call)
        assert status == 2
        assert quiet(out + err), call


def test_json_says_what_was_there_all_the_same(kick, acting):
    names = {state["variant"] for state in json.loads(kick("status", acting, "--json")[1])}
    assert ACTING in names


# ------------------------------------------------------------------------------ reading makes nothing


@pytest.mark.parametrize("command", ["status", "leaderboard", "compare", "figures", "rescore"])
def test_a_mistyped_folder_is_an_error_and_is_not_made(kick, tmp_path, command):
    more = {
        "compare": ["a", "b"],
        "leaderboard": ["--out", tmp_path / "out"],
        "figures": ["--out", tmp_path / "out"],
    }
    status, _, err = kick(command, tmp_path / "resluts", *more.get(command, []))
    assert status == 2
    assert "resluts" in err
    assert list(tmp_path.iterdir()) == []
