"""A matrix's cells: expanded, counted, named and keyed; and what a plan refuses, with its line."""

import time
from dataclasses import replace

import pytest

from kick.errors import KickError
from kick.matrix.variants import MethodTable
from kick.records import Step
from tests.support.small_tables import DEFAULTS, HEAD, KEYED, SOURCES, TASKS, Asked, planned, resolve, step


def names(text):
    return [variant.name for variant in planned(text).variants]


# ---------------------------------------------------------------------------------------- expansion


@pytest.mark.parametrize(
    ("variants", "labels"),
    [
        ("[dense]", ["dense"]),
        ("[{method: rtn, bits: 4}]", ["dense", "rtn-4bit"]),
        ("[{method: wanda, sparsity: [0.5, '2:4']}]", ["dense", "wanda-0.5", "wanda-2:4"]),
        (
            "[{method: [magnitude, wanda], sparsity: [0.3, 0.5]}, dense]",
            ["dense", "magnitude-0.3", "magnitude-0.5", "wanda-0.3", "wanda-0.5"],
        ),
        (
            "[{method: gptq, bits: [8, 3], group_size: [32, 128, -1]}]",
            ["dense", *(f"gptq-{b}bit{g}" for b in (8, 3) for g in ("-g32", "", "-row"))],
        ),
        (
            "[{recipe: [{method: wanda, sparsity: [0.3, 0.5]}, {method: [rtn, gptq], bits: 4}]}]",
            ["dense", *(f"wanda-{s}+{q}-4bit" for s in (0.3, 0.5) for q in ("rtn", "gptq"))],
        ),
        ("[{method: wanda, sparsity: 0.5, damping: 1e-5}]", ["dense", "wanda-0.5-damping=1.0e-05"]),
        ("[{method: rtn, bits: 4, symmetric: true, group_size: 128}]", ["dense", "rtn-4bit-symmetric"]),
        ("[{checkpoint: a/model-GPTQ}, {checkpoint: b/model-GPTQ}]", ["dense", "model-GPTQ", "b/model-GPTQ"]),
        ("[{checkpoint: /data/a/model/}, {checkpoint: /data/b/model}]", ["dense", "model", "b/model"]),
        ("[{checkpoint: a/b, name: theirs}]", ["dense", "theirs"]),
        ("[{method: rtn, bits: 4, name: ' Round it '}]", ["dense", "Round it"]),
        ("[{recipe: [{method: rtn, bits: 4}], name: mine}]", ["dense", "mine"]),
    ],
)
def test_lists_multiply_and_every_variant_has_a_readable_label(variants, labels):
    assert names(HEAD.replace("variants:\n", f"variants: {variants}\n")) == labels


def test_seeds_multiply_only_what_calibrates():
    text = (
        HEAD
        + "  - {method: magnitude, sparsity: 0.5}\n  - {method: wanda, sparsity: 0.5}\nseeds: [0, 1, 7]\n"
    )
    assert names(text) == ["dense", "magnitude-0.5", "wanda-0.5", "wanda-0.5-seed1", "wanda-0.5-seed7"]
    seeds = [v.calibration.seed for v in planned(text).variants if v.calibration]
    assert seeds == [0, 1, 7]


def test_a_name_is_for_people_and_no_part_of_the_key():
    entry = "  - {method: wanda, sparsity: 0.5%s}\nseeds: [0, 1]\n"
    plain, named = planned(HEAD + entry % ""), planned(HEAD + entry % ", name: Ours")
    assert plain.keys == named.keys
    assert [variant.name for variant in named.variants] == ["dense", "Ours", "Ours-seed1"]
    assert [variant.label for variant in named.variants] == ["", "Ours", "Ours"]


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ("{method: rtn, bits: [3, 4], name: x}", [":6: variants[1].name: one name for 2 variants"]),
        (
            "{method: rtn, bits: 4, name: dense}",
            [":6: variants[1].name: two variants called dense", "line 5"],
        ),
        (
            "{method: rtn, bits: 4, name: x}\n  - {method: rtn, bits: 3, name: x}",
            [":7: variants[2].name: two variants called x", "line 6"],
        ),
        (
            "{method: rtn, bits: 4, name: rtn-3bit}\n  - {method: rtn, bits: 3}",
            [":7: variants[2]: two variants called rtn-3bit", "line 6"],
        ),
        ("{method: rtn, bits: 4, name: 3}", [":6: variants[1].name: got 3; expected: a label", "in quotes"]),
        ("{method: rtn, bits: 4, name: ''}", [":6: variants[1].name: got ''; expected: a label"]),
        ('{method: rtn, bits: 4, name: "\\e[2J"}', [":6: variants[1].name:", "expected: a label"]),
        ("{recipe: [{method: rtn, bits: 4, name: x}]}", [":6: variants[1]", "name"]),
    ],
)
def test_names_must_differ_and_stand_for_one_variant(variants, words):
    with pytest.raises(KickError) as caught:
        planned(HEAD + f"  - dense\n  - {variants}\n")
    for word in words:
        assert word in str(caught.value)


def test_the_calibration_seed_counts_where_no_seeds_are_given():
    text = HEAD + "  - {method: wanda, sparsity: 0.5}\ncalibration: {seed: 4}\n"
    assert names(text) == ["dense", "wanda-0.5-seed4"]


def test_replicas_are_dense_again_with_keys_of_their_own():
    found = planned(HEAD + "  - dense\nreplicas: [batch, dtype]\n")
    assert [v.name for v in found.variants] == ["dense", "dense-batch", "dense-dtype"]
    assert [v.model.dtype for v in found.variants] == ["float32", "float32", "bfloat16"]
    assert [v.dense for v in found.variants] == [True, False, False]
    assert len(set(found.keys)) == 9


def test_cells_and_jobs_are_counted_dense_first():
    found = planned(HEAD + "  - {method: [magnitude, wanda], sparsity: [0.3, 0.5]}\n")
    assert len(found.cells) == len(set(found.keys)) == len(found.by_key) == 5 * 3
    assert [job.variant.name for job in found.jobs] == [v.name for v in found.variants]
    assert all(len(job.cells) == 3 for job in found.jobs)
    assert found.jobs[0].variant.dense


def test_the_reference_is_the_dense_cell_where_a_task_needs_it():
    found = planned(HEAD + "  - {method: rtn, bits: 4}\nreplicas: [batch]\n")
    by_place = {(c.variant.name, c.task.name): c for c in found.cells}
    dense = by_place["dense", "diverge"]
    assert dense.reference is None
    assert by_place["rtn-4bit", "diverge"].reference == dense.key
    assert by_place["dense-batch", "diverge"].reference == dense.key
    assert by_place["rtn-4bit", "facts"].reference is None


def test_digests_and_defaults_are_written_out():
    found = planned(HEAD + "  - {method: wanda, sparsity: 0.5}\ncalibration: {corpus: wikitext2}\n")
    variant = found.variants[1]
    assert variant.recipe == (Step("wanda", {"sparsity": "0.5", "damping": 0.01}),)
    assert variant.calibration.digest == "text of wikitext2"
    assert variant.model.digest == "weights of tiny"
    assert found.cells[0].task.digest == "d1"


def test_limits_and_shots_by_task_by_group_and_by_command_line():
    text = HEAD + "  - dense\n"
    by_task = planned(text + "limit: {facts: 8, suite: 20}\nshots: {facts: 2}\n").cells
    assert [cell.task.limit for cell in by_task] == [8, 20, 20]
    assert [cell.task.shots for cell in by_task] == [2, None, None]
    assert [cell.task.limit for cell in planned(text + "limit: 8\n", limit=3).cells] == [3, 3, 3]


def test_what_changes_nothing_does_not_change_the_key():
    text = HEAD + "  - dense\n"
    plain = planned(text).keys
    assert planned(text + "limit: {facts: 100}\nshots: {facts: 5}\n").keys == plain
    assert planned(text + "shots: {prose: 3}\n").keys == plain
    assert planned(text + "limit: {facts: 99}\n").keys[0] != plain[0]


# ---------------------------------------------------------------------------------------- keys

GOLDEN = ["0776f7fcd14f199a", "cf07ed5fef64df9e", "a15bdec178f7733d", "55ede068248e8235"]


def test_keys_stay_what_they_were():
    assert list(planned(KEYED).keys) == GOLDEN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: trial", "name: other"),
        ("variants:", "engine: {batch_tokens: 64}\nvariants:"),
        ("variants:", "engine: {batch_tokens: 99}\nvariants:"),
        ("variants:", "time_limit: 60\nvariants:"),
        ("variants:", "data_root: /elsewhere\nvariants:"),
        ("variants:", "judge: {model: j}\nvariants:"),
        ("sparsity: 0.5", "sparsity: 0.5, damping: 0.01"),
        ("sparsity: 0.5", 'sparsity: "0.5"'),
    ],
)
def test_keys_do_not_change_with_labels_or_the_machine(old, new):
    assert planned(KEYED.replace(old, new)).keys == planned(KEYED).keys


def test_the_name_of_a_model_is_not_in_the_key_but_its_weights_are():
    moved = replace(
        SOURCES, resolve=lambda name, revision, dtype: replace(resolve("tiny", None, dtype), name=name)
    )
    assert planned(KEYED.replace("tiny", "/a/folder"), moved).keys == planned(KEYED).keys
    other = replace(SOURCES, resolve=lambda *spec: replace(resolve(*spec), digest="other weights"))
    assert not set(planned(KEYED, other).keys) & set(planned(KEYED).keys)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [  # `same`: how many of dense x 2, wanda x 2 stay
        ("sparsity: 0.5", "sparsity: 0.6", 2),
        ("sparsity: 0.5", "sparsity: 0.5, damping: 0.1", 2),
        ("sequences: 8", "sequences: 9", 2),
        ("sequences: 8", "length: 300", 2),
        ("sequences: 8", "seed: 1", 2),
        ("sequences: 8", "propagate: dense", 2),
        ("wikitext2", "kick_mini_calibration", 2),
        ("model: tiny", "model: other", 0),
        ("model: tiny", "model: tiny\ndtype: bfloat16", 0),
        ("model: tiny", "model: tiny\nchat_template: true", 0),
        ("model: tiny", "model: tiny\nlimit: 10", 0),
        ("model: tiny", "model: tiny\nshots: {facts: 1}", 2),
    ],
)
def test_keys_change_with_all_that_changes_the_numbers(old, new, same):
    assert len(set(planned(KEYED.replace(old, new)).keys) & set(planned(KEYED).keys)) == same


def test_keys_change_with_a_default_a_version_and_a_task_file(monkeypatch):
    keys = planned(KEYED).keys
    changed = {**DEFAULTS, "wanda": {"sparsity": None, "damping": 0.02}}
    table = MethodTable(lambda name, options: step(name, options, changed), SOURCES.methods.needs)
    assert planned(KEYED, replace(SOURCES, methods=table)).keys[:2] == keys[:2]
    assert not set(planned(KEYED, replace(SOURCES, methods=table)).keys[2:]) & set(keys)
    table = MethodTable(lambda *given: replace(step(*given), version=2), SOURCES.methods.needs)
    assert not set(planned(KEYED, replace(SOURCES, methods=table)).keys[2:]) & set(keys)
    monkeypatch.setitem(TASKS, "facts", replace(TASKS["facts"], digest="new file"))
    assert [a == b for a, b in zip(planned(KEYED).keys, keys, strict=True)] == [False, True, False, True]


# ---------------------------------------------------------------------------------------- refusals

BAD = {
    "unknown method": ("  - {method: wandda, sparsity: 0.5}\n", 5, ["unknown method 'wandda'", "'wanda'"]),
    "unknown option": ("  - {method: wanda, sparsty: 0.5}\n", 5, ["sparsty", "did you mean 'sparsity'"]),
    "option of another method": (
        "  - method: [wanda, rtn]\n    sparsity: 0.5\n",
        6,
        ["rtn: unknown option 'sparsity'", "bits"],
    ),
    "missing option": ("  - {method: wanda}\n", 5, ["wanda needs the option 'sparsity'"]),
    "level out of range": (
        "  - method: wanda\n    sparsity:\n      - 0.5\n      - 1.5\n",
        8,
        ["variants[0].sparsity[1]", "1.5", "between 0 and 1"],
    ),
    "bad step of a recipe": (
        "  - recipe:\n    - {method: wanda, sparsity: 0.5}\n    - {method: rtm, bits: 4}\n",
        7,
        ["unknown method 'rtm'", "'rtn'"],
    ),
    "empty list of levels": ("  - {method: wanda, sparsity: []}\n", 5, ["empty list", "at least one value"]),
    "given twice": (
        "  - {method: wanda, sparsity: 0.5}\n  - method: [wanda]\n    sparsity: 0.5\n    damping: 0.01\n",
        6,
        ["wanda-0.5 is given twice: line 5 and line 6"],
    ),
    "level given twice": (
        "  - {method: wanda, sparsity: [0.5, 0.5]}\n",
        5,
        ["given twice: in line 5"],
    ),
    "dense twice": ("  - dense\n  - dense\n", 6, ["dense is given twice: line 5 and line 6"]),
    "unknown task": ("  - dense\ntasks: [suite, fact]\n", 6, ["unknown task 'fact'", "'facts'"]),
    "unknown model": ("  - dense\nmodel: huge\n", 6, ["unknown model 'huge'", "'tiny'"]),
    "unknown corpus": (
        "  - {method: wanda, sparsity: 0.5}\ncalibration: {corpus: wikitxt}\n",
        6,
        ["unknown corpus 'wikitxt'", "'wikitext2'"],
    ),
    "limit of a task that is not there": (
        "  - dense\nlimit: {fact: 3}\n",
        6,
        ["limit.fact", "unknown task of this matrix 'fact'", "'facts'"],
    ),
    "shots of a task that is not there": ("  - dense\nshots: {prosa: 3}\n", 6, ["shots.prosa", "'prose'"]),
    "chat template of a task that is not there": (
        "  - dense\nchat_template: {prosa: true}\n",
        6,
        ["chat_template.prosa", "'prose'"],
    ),
    "another reference": (
        "  - {checkpoint: a/b, reference: other}\n",
        5,
        ["reference: got other", "a matrix of its own"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_or_level_is_refused_with_its_line(name):
    text, line, words = BAD[name]
    head = "".join(part for part in HEAD.splitlines(True) if f"\n{part.split(':')[0]}:" not in f"\n{text}")
    line -= HEAD.count("\n") - head.count("\n")
    with pytest.raises(KickError) as caught:
        planned(head + text)
    told = [said for said in str(caught.value).split("\n") if all(word in said for word in words)]
    assert told, str(caught.value)
    assert told[0].startswith(f"m.yaml:{line}: ")


def test_all_that_is_wrong_is_told_at_once():
    text = "  - {method: wandda}\n  - {method: rtn, bitz: 4}\ntime_limit: 3\nlimit: {x: 3}\n"
    with pytest.raises(KickError) as caught:
        planned(HEAD + text)
    assert [line.split(": ")[0] for line in str(caught.value).split("\n")] == [
        "m.yaml:5",
        "m.yaml:6",
        "m.yaml:8",
    ]


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(KickError, match="limit: got 0"):
        planned(HEAD + "  - dense\n", limit=0)


def test_models_are_asked_for_only_when_all_names_are_right():
    def never(*spec):
        raise AssertionError("a model was resolved")

    with pytest.raises(KickError, match="unknown method"):
        planned(HEAD + "  - {method: wandda}\n", replace(SOURCES, resolve=never))


def test_ten_thousand_cells_are_planned_in_seconds():
    levels = ", ".join(str(n / 1000) for n in range(1, 1000))
    many = {f"t{n}": Asked(f"t{n}", str(n)) for n in range(10)}
    sources = replace(SOURCES, tasks=lambda names, root: many)
    text = HEAD + f"  - {{method: wanda, sparsity: [{levels}], damping: 0.1}}\n"
    start = time.process_time()
    found = planned(text, sources)
    assert len(found.keys) == 10_000
    assert time.process_time() - start < 15  # a slow machine takes 3; a square of their number, minutes
