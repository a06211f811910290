"""Matrix files: what is read, and what is refused with its line, the value got and the nearest right name."""

import pytest

from kick.errors import KickError
from kick.matrix.load import load, parse, presets
from kick.matrix.schema import StepKeys

GOOD = """\
name: trial
model: smollm2-135m
tasks: [kick_mini]
limit: {kick_mini_mcq: 96, kick_mini_open: 1e2}
calibration: {corpus: wikitext2, sequences: 8, seed: 3}
seeds: [0, 1]
variants:
  - dense
  - method: [magnitude, wanda]
    sparsity: [0.3, "2:4"]
  - recipe:
      - {method: wanda, sparsity: 0.5, damping: 1e-5}
      - {method: rtn, bits: 4}
  - checkpoint: someone/model-GPTQ
judge: {model: judge-1, temperature: "1e-3"}
"""


def test_a_matrix_is_read_with_defaults_filled_in():
    matrix = parse(GOOD, "m.yaml")
    assert matrix.dtype == "float32"
    assert matrix.limit == {"kick_mini_mcq": 96, "kick_mini_open": 100}
    assert (matrix.calibration.sequences, matrix.calibration.length) == (8, 256)
    assert matrix.seeds == (0, 1)
    assert matrix.engine.batch_tokens is None
    assert matrix.judge.temperature == pytest.approx(1e-3)
    assert matrix.replicas == ("batch", "dtype")  # every matrix has its noise floor
    assert matrix.text == GOOD
    dense, product, recipe, checkpoint = matrix.variants
    assert dense == "dense"
    assert product.method == ("magnitude", "wanda")
    assert product.options == {"sparsity": [0.3, "2:4"]}
    assert recipe.recipe[0].options["damping"] == pytest.approx(1e-5)
    assert isinstance(recipe.recipe[1], StepKeys)
    assert checkpoint.checkpoint == "someone/model-GPTQ"


def test_marks_know_the_lines():
    marks = parse(GOOD, "m.yaml").marks
    assert marks.line(("variants", 1, "sparsity", 1)) == 10
    assert marks.line(("variants", 2, "recipe", 1, "bits")) == 13
    assert marks.line(("variants", 2, "recipe", 1, "absent")) == 13
    assert marks.line(("absent",)) == 1


def test_a_matrix_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        parse(GOOD, "m.yaml").name = "other"


def test_anchors_and_dates_are_plain_values():
    matrix = parse(GOOD.replace("[0, 1]", "&s [0, 1]") + "revision: 2024-01-01\n", "m.yaml")
    assert matrix.revision == "2024-01-01"


def bad(old: str, new: str) -> str:
    """GOOD with `old` replaced, which must be there."""
    assert old in GOOD
    return GOOD.replace(old, new)


# the matrix, the line, what the message must contain
BAD = {
    "unknown key": (bad("tasks:", "tsks:"), 3, ["tsks", "did you mean 'tasks'"]),
    "missing key": (bad("name: trial\n", ""), 1, ["'name' is missing", "expected: letters"]),
    "misspelt key that is needed": (bad("model: s", "modle: s"), 2, ["'modle'", "did you mean 'model'"]),
    "name with blanks": (bad("trial", "my trial"), 1, ["name: got my trial", "letters, digits, - and _"]),
    "name that climbs": (bad("trial", "../up"), 1, ["got ../up", "letters, digits"]),
    "name that is a truth value": (bad("trial", "on"), 1, ["name: got true", "as text in quotes"]),
    "model as number": (bad("smollm2-135m", "12"), 2, ["model: got 12", "hub id"]),
    "no tasks": (bad("[kick_mini]", "[]"), 3, ["tasks: got []", "at least one task"]),
    "tasks as text": (bad("[kick_mini]", "kick_mini"), 3, ["tasks: got kick_mini", "a list"]),
    "task twice": (bad("[kick_mini]", "[kick_mini, kick_mini]"), 3, ["kick_mini is given twice"]),
    "task as number": (bad("[kick_mini]", "[kick_mini, 3]"), 3, ["tasks[1]: got 3", "name of a task"]),
    "limit of zero": (bad("96", "0"), 4, ["limit.kick_mini_mcq: got 0", "at least 1"]),
    "limit as text": (bad("96", "many"), 4, ["got many", "whole number"]),
    "limit with a fraction": (bad("96", "9.5"), 4, ["got 9.5", "whole number"]),
    "limit true": (bad("96", "true"), 4, ["got true", "whole number"]),
    "negative shots": (GOOD + "shots: -1\n", 16, ["shots: got -1", "at least 0"]),
    "unknown dtype": (GOOD + "dtype: float23\n", 16, ["unknown dtype 'float23'", "'float32'"]),
    "chat template of a task": (GOOD + "chat_template: {a: yess}\n", 16, ["got yess", "true or false"]),
    "chat template as text": (GOOD + "chat_template: yess\n", 16, ["got yess", "true or false"]),
    "revision as number": (GOOD + "revision: 12e4\n", 16, ["revision: got 12e4", "in quotes"]),
    "unknown calibration key": (bad("sequences:", "sequence:"), 5, ["'sequence'", "mean 'sequences'"]),
    "no calibration sequences": (bad("sequences: 8", "sequences: 0"), 5, ["sequences: got 0", "at least 1"]),
    "calibration as text": (
        bad("{corpus: wikitext2, sequences: 8, seed: 3}", "wikitext2"),
        5,
        ["calibration: got wikitext2", "mapping"],
    ),
    "unknown way to propagate": (
        bad("seed: 3", "propagate: sparse"),
        5,
        ["unknown way to propagate 'sparse'", "'compressed'"],
    ),
    "no seeds": (bad("[0, 1]", "[]"), 6, ["seeds: got []", "e.g. [0, 1]"]),
    "seed twice": (bad("[0, 1]", "[1, 1]"), 6, ["seeds: 1 is given twice"]),
    "negative seed": (bad("[0, 1]", "[0, -1]"), 6, ["seeds[1]: got -1", "from 0 to"]),
    "no variants": (GOOD[: GOOD.index("variants")] + "variants: []\n", 7, ["variants: got []", "dense"]),
    "unknown variant": (bad("- dense", "- dnse"), 8, ["unknown variant 'dnse'", "'dense'"]),
    "variant as number": (bad("- dense", "- 12"), 8, ["variants[0]: got 12", "{method: ..."]),
    "variant without method": (bad("- method:", "- metod:"), 9, ["unknown key 'metod'", "'method'"]),
    "empty list of methods": (bad("[magnitude, wanda]", "[]"), 9, ["method: got []", "a method's name"]),
    "method as number": (bad("[magnitude, wanda]", "7"), 9, ["method: got 7", "a method's name"]),
    "unquoted 2:4": (bad('"2:4"', "2:4"), 10, ["got 2:4", "the number 124", 'did you mean "2:4" in quotes?']),
    "unquoted 4:8": (bad('"2:4"', "4:8"), 10, ["the number 248", '"4:8" in quotes']),
    "method beside recipe": (
        bad("  - recipe:", "  - method: rtn\n    recipe:"),
        11,
        ["key 'method'", "recipe"],
    ),
    "step without method": (
        bad("{method: rtn, bits: 4}", "{bits: 4}"),
        13,
        ["recipe[1]", "'method' is missing"],
    ),
    "step as text": (bad("{method: rtn, bits: 4}", "rtn"), 13, ["got rtn", "{method: ..., option: ...}"]),
    "unknown checkpoint key": (
        bad("someone/model-GPTQ", "a/b\n    refernce: c"),
        15,
        ["'refernce'", "did you mean 'reference'"],
    ),
    "unknown engine": (
        GOOD + "engine: {name: transformer}\n",
        16,
        ["unknown engine 'transformer'", "'transformers'"],
    ),
    "no batch": (GOOD + "engine: {batch_tokens: 0}\n", 16, ["batch_tokens: got 0", "auto"]),
    "unknown replica": (GOOD + "replicas: [batch, dtyp]\n", 16, ["unknown replica 'dtyp'", "'dtype'"]),
    "another way to stop": (GOOD + "stop: decide\n", 16, ["stop: got decide", "expected: decided"]),
    "stop off": (GOOD + "stop: off\n", 16, ["stop: got false", "no such key"]),
    "precision without stop": (GOOD + "precision: 2\n", 16, ["precision: only with stop: decided", "got 2"]),
    "looks without stop": (GOOD + "looks: [24, 96]\n", 16, ["looks: only with stop: decided"]),
    "looks that shrink": (GOOD + "stop: decided\nlooks: [96, 24]\n", 17, ["got [96, 24]", "a growing list"]),
    "a look twice": (GOOD + "stop: decided\nlooks: [24, 24]\n", 17, ["got [24, 24]", "a growing list"]),
    "a look as text": (GOOD + "stop: decided\nlooks: [24, all]\n", 17, ["looks[1]: got all", "whole"]),
    "no look": (GOOD + "stop: decided\nlooks: []\n", 17, ["looks: got []", "whole numbers"]),
    "no precision": (GOOD + "stop: decided\nprecision: 0\n", 17, ["precision: got 0", "points"]),
    "a whole margin": (GOOD + "margin: 1\n", 16, ["margin: got 1", "below 1"]),
    "no margin": (GOOD + "margin: 0\n", 16, ["margin: got 0", "above 0"]),
    "no time": (GOOD + "time_limit: 0\n", 16, ["time_limit: got 0", "seconds"]),
    "time not a number": (GOOD + "time_limit: .inf\n", 16, ["got .inf", "finite"]),
    "judge without model": (bad("model: judge-1, ", ""), 15, ["judge: the key 'model' is missing"]),
    "judge's key": (bad("judge-1", "judge-1, api_key: k"), 15, ["unknown key 'api_key'", "base_url"]),
    "key in the judge's address": (
        bad("judge-1", "judge-1, base_url: 'https://me:k@host/v1'"),
        15,
        ["environment only"],
    ),
    "judge's address": (bad("judge-1", "judge-1, base_url: host/v1"), 15, ["got 'host/v1'", "https://"]),
    "key twice": (GOOD + "tasks: [kick_mini]\n", 16, ["tasks: given twice: lines 3 and 16"]),
    "inner key twice": (bad("seed: 3", "seed: 3, seed: 4"), 5, ["calibration.seed: given twice"]),
    "a number that is none": (
        bad("sequences: 8", "sequences: !!float a:b"),
        5,
        ["'a:b'", "not a valid float"],
    ),
    "octal": (bad("sequences: 8", "sequences: 010"), 5, ["got 010", "base 8", "write 10"]),
    "merged keys": (GOOD + "<<: {shots: 3}\n", 16, ["plain text"]),
    "a tag that makes objects": (GOOD + "shots: !!python/object:os.x {}\n", 16, ["not allowed", "plain"]),
    "an alias inside itself": (GOOD + "shots: &a [*a]\n", 16, ["alias"]),
    "not YAML": (bad("[0, 1]", "[0, 1"), 7, ["not YAML"]),
    "control characters": (bad("trial", "tri\x00al"), 1, ["not YAML", "x0000"]),
    "a list": ("- dense\n", 1, ["a matrix must be a mapping"]),
    "nothing": ("# nothing\n", 1, ["empty", "name, model, tasks and variants"]),
    "too deep": ("name: " + "[" * 5000, 1, ["nested too deeply"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_matrix_is_refused_with_its_line(name):
    text, line, words = BAD[name]
    with pytest.raises(KickError) as caught:
        parse(text, "m.yaml")
    told = [said for said in str(caught.value).split("\n") if all(word in said for word in words)]
    assert told, str(caught.value)
    assert told[0].startswith(f"m.yaml:{line}: ")


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_file():
    text = bad("smollm2-135m", "12").replace('"2:4"', "2:4").replace("judge-1", "judge-1, rounds: 3")
    with pytest.raises(KickError) as caught:
        parse(text, "m.yaml")
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0] for line in lines] == ["m.yaml:2", "m.yaml:10", "m.yaml:15"]


def test_a_file_of_endless_aliases_is_refused_quickly():
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    with pytest.raises(KickError, match=r"m\.yaml:\d+: more than 200000 values"):
        parse(text, "m.yaml")


@pytest.mark.parametrize("name", presets())
def test_presets_are_read_by_name(name):
    matrix = load(name)
    assert matrix.name == name
    assert matrix.marks.source == f"kick/matrix/presets/{name}.yaml"


def test_demo_presets_differ_as_said():
    assert load("demo").limit["kick_mini_factoid"] == 96
    assert load("demo-full").limit is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("demos", "unknown preset 'demos'; did you mean 'demo'"),
        ("nowhere/demo.yaml", "no such matrix file: nowhere/demo.yaml; did you mean demo"),
        ("", "folder"),
    ],
)
def test_an_unknown_matrix_names_its_neighbours(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KickError, match=r"preset|matrix") as caught:
        load(name)
    assert words in str(caught.value)


def test_files_are_read_and_misspelt_files_named(tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD)
    assert load(tmp_path / "mine.yaml").name == "trial"
    with pytest.raises(KickError, match=r"did you mean .*mine\.yaml"):
        load(tmp_path / "mien.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "m.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(KickError, match="not UTF-8 text at byte 6"):
        load(tmp_path / "m.yaml")


def test_a_file_that_cannot_be_read_is_said_so(tmp_path):
    (tmp_path / "ring.yaml").symlink_to(tmp_path / "ring.yaml")
    with pytest.raises(KickError, match="cannot be read"):
        load(tmp_path / "ring.yaml")
