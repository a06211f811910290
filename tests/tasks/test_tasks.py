"""Task files: broken ones are refused by name, names have neighbours, requests keep no answer."""

import shutil
from pathlib import Path

import lm_eval.tasks
import pytest

from kick import tasks
from kick.errors import KickError
from kick.records import Request, Response, TaskSpec
from kick.tasks import data, index
from kick.tasks.lm_eval_task import item_ids, request_of
from tests.support.local_mirror import mirror

SHARED = Path(__file__).parents[3] / "shared" / "data"
LM_EVAL = Path(lm_eval.tasks.__file__).parent
HEAD = (
    "custom_dataset: !function kick.tasks.data.embedded\ndataset_kwargs: {file: factoid}\ntest_split: test\n"
)
TINY = HEAD + 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: answer\n'


@pytest.fixture
def folder(tmp_path):
    """Writes task files and gives their folder."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


# ------------------------------------------------------------------------------ files and names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [a, b", "not valid YAML"),
        ("task: a\noutput_type: x\ntask: b\n", "the key 'task' appears twice"),
        ("task: a\nmetadata:\n  kick: {title: x, title: y}\n", "the key 'title' appears twice"),
        ("- a\n- b\n", "must be a mapping of keys, got list"),
        ("", "must be a mapping of keys, got NoneType"),
        ("output_type: generate_until\n", "names no task or group; the key `task` is missing"),
        ("include: other.yaml\ntask: a\n", "includes 'other.yaml', which is not there"),
        ("include: broken.yaml\ntask: a\n", "includes itself"),
        ("task: !!python/name:os.system\n", "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_and_named(folder, text, message):
    with pytest.raises(KickError, match=r"broken\.yaml") as caught:
        tasks.names([folder(broken=text)])
    assert message in str(caught.value)


def test_a_file_that_is_no_text(folder):
    (folder() / "bytes.yaml").write_bytes(b"task: \xff\xfe")
    with pytest.raises(KickError, match=r"bytes\.yaml is not valid YAML"):
        tasks.names([folder()])


def test_a_name_is_taken_once(folder):
    with pytest.raises(KickError, match=r"task 'a' is defined twice: .*one\.yaml and .*two\.yaml"):
        tasks.names([folder(one="task: a", two="task: a")])


def test_kicks_own_name_is_taken(folder):
    with pytest.raises(
        KickError, match=r"'kick_mini_mcq' is defined twice: .*kick_mini_mcq\.yaml and .*mine\.yaml"
    ):
        tasks.names([folder(mine="task: kick_mini_mcq")])
    assert tasks.names([data.tasks_folder()]) == tasks.names()  # naming kick's own folder is no fault


def test_includes_are_merged_and_overridden(folder):
    (folder() / "_shared.yaml").write_text("include: _deep.yaml\nx: 1\ny: 1\n")
    (folder() / "_deep.yaml").write_text("y: 0\nz: 0\ndoc: !function kick.tasks.scoring.summary\n")
    config = index.own([folder(a="include: [_shared.yaml]\ntask: a\nx: 2\n")])["a"][1]
    assert config == {"task": "a", "x": 2, "y": 1, "z": 0, "doc": "kick.tasks.scoring.summary"}


def test_a_user_adds_a_task_with_one_file(folder):
    place = folder(mine=f"task: mine\n{TINY}metadata:\n  kick: {{title: Mine, group: category}}\n")
    (task,) = tasks.load(["mine"], extra=[place]).values()
    items = task.items(TaskSpec("mine", limit=3), None)
    assert [item.target for item in items] == ["bed", "1945", "Vincent van Gogh"]
    assert [item.group for item in items] == ["everyday", "history", "arts"]
    assert task.size == 512
    (record,) = [record for record in tasks.describe([place]) if record["name"] == "mine"]
    assert (record["title"], record["kind"]) == ("Mine", "generate_until")


def test_a_group_is_expanded_and_each_task_taken_once(folder):
    place = folder(
        g="group: g\ntask: [kick_mini_mcq, h]", h="group: h\ntask: [kick_mini_mcq, kick_mini_open]"
    )
    assert index.expand(["kick_mini_open", "g"], [place]) == ["kick_mini_open", "kick_mini_mcq"]
    assert len(index.expand(["kick_mini"])) == 8
    (record,) = [record for record in tasks.describe([place]) if record["name"] == "g"]
    assert (record["kind"], record["members"]) == ("group", ["kick_mini_mcq", "h"])


def test_groups_inside_a_group(folder):
    inner = (
        "{group: x, aggregate_metric_list: [], task: [kick_mini_mcq, {task: kick_mini_open, task_alias: o}]}"
    )
    place = folder(g=f"group: g\ntask: [{inner}, kick_mini_closed]")
    assert index.expand(["g"], [place]) == ["kick_mini_mcq", "kick_mini_open", "kick_mini_closed"]


def test_options_inside_a_group_are_refused_and_never_dropped(folder):
    place = folder(g="group: g\ntask: [{task: kick_mini_mcq, num_fewshot: 9}]")
    with pytest.raises(KickError, match=r"group g: a member must be the name of a task, got .*num_fewshot"):
        tasks.load(["g"], extra=[place])


def test_an_unknown_task_names_its_neighbours(monkeypatch):
    plain = index._manager
    monkeypatch.setattr(index, "_manager", lambda extra, _, root: plain(extra, False, root))
    with pytest.raises(KickError, match=r"'kick_mini_factiod', of kick .* did you mean 'kick_mini_factoid'"):
        tasks.load(["kick_mini_factiod"])


def test_an_unknown_protocol_is_refused(folder):
    place = folder(a=f"task: a\n{TINY}metadata:\n  kick: {{protocol: perplexty}}\n")
    with pytest.raises(KickError, match="unknown protocol 'perplexty'; did you mean 'perplexity'"):
        tasks.load(["a"], extra=[place])


def test_a_function_that_is_not_there_is_named(folder):
    place = folder(a=f"task: a\n{TINY}process_results: !function kick.tasks.scoring.nothing\n")
    with pytest.raises(KickError, match=r"task a cannot be loaded.*nothing"):
        tasks.load(["a"], extra=[place])


def test_a_hub_set_out_of_reach_is_named_by_its_task(folder, monkeypatch):
    def unreachable(**options):
        raise ConnectionError(f"Couldn't reach {options['path']!r} on the Hub\nand more")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    text = 'output_type: generate_until\ndoc_to_text: "x"\ndoc_to_target: "y"\ntest_split: test\n'
    place = folder(a=f"task: far\ndataset_path: someone/far\n{text}")
    with pytest.raises(KickError, match=r"task far: data set someone/far \(default, test\)") as caught:
        tasks.load(["far"], extra=[place])
    for part in (
        "embedded suite",
        "no local mirror",
        "the hub (ConnectionError: Couldn't reach 'someone/far'",
    ):
        assert part in str(caught.value)


# ------------------------------------------------------------------------------ digests


def digests(folder, text=f"task: a\n{TINY}"):
    (folder / "a.yaml").write_text(text)
    index._files.cache_clear()
    index._manager.cache_clear()
    task = tasks.load(["a"], extra=[folder])["a"]
    return task.digest, task.scoring


def test_what_is_asked_and_how_it_is_scored_have_digests_of_their_own(tmp_path):
    asked, scored = digests(tmp_path)
    base = f"task: a\n{TINY}"
    assert digests(tmp_path, base) == (asked, scored)
    assert digests(tmp_path, f"# a remark\n{base}metadata: {{kick: {{title: other}}}}\n") == (asked, scored)
    other = digests(tmp_path, base.replace("{{question}}", "{{question}}?"))
    assert other[0] != asked
    assert other[1] == scored
    other = digests(tmp_path, base.replace("file: factoid", "file: reading"))
    assert other[0] != asked
    other = digests(tmp_path, base + "metric_list: [{metric: f1}]\n")
    assert other[0] == asked
    assert other[1] != scored
    other = digests(tmp_path, base + "process_results: !function kick.tasks.scoring.short_answer\n")
    assert other[0] == asked
    assert other[1] != scored
    shown = "num_fewshot: 1\nfewshot_config: {sampler: first_n, samples: [{question: a, answer: b}]}\n"
    first, second = digests(tmp_path, base + shown)[0], digests(tmp_path, base + shown.replace("b}", "c}"))[0]
    assert len({asked, first, second}) == 3


def test_digests_do_not_depend_on_the_folder(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


# ------------------------------------------------------------------------------ items


def test_the_first_n_items_are_the_same_ones():
    task = tasks.load(["kick_mini_open"])["kick_mini_open"]
    few, all_ = (task.items(TaskSpec("kick_mini_open", limit=limit), None) for limit in (5, None))
    assert all_[:5] == few
    assert len(all_) == task.size == 264


def test_closed_and_open_book_pair_by_document():
    loaded = tasks.load(["kick_mini_closed", "kick_mini_open"])
    closed, open_ = (task.items(TaskSpec(name), None) for name, task in loaded.items())
    assert [item.id for item in closed] == [item.id for item in open_]
    assert "passage" not in closed[0].requests[0].context
    assert open_[0].doc["passage"] in open_[0].requests[0].context


def test_copies_of_a_document_have_ids_of_their_own():
    ids = item_ids([{"a": 1}, {"a": 1}, {"a": 2}, {"a": 1}])
    assert len(set(ids)) == 4
    assert item_ids([{"a": 2}, {"a": 1}]) == [ids[2], ids[0]]  # not by position


def test_requests_are_built_once_and_no_answer_stays_in_them():
    """lm-eval scores `filtered_resps` of a former model where they are not taken away."""
    task = tasks.load(["kick_mini_factoid"])["kick_mini_factoid"]
    items = task.items(TaskSpec("kick_mini_factoid", limit=2), None)
    assert task.items(TaskSpec("kick_mini_factoid", limit=2), None) == items
    right = [[Response(text=item.target)] for item in items]
    wrong = [[Response(text="nonsense")] for _ in items]
    for answers, value in ((right, 1.0), (wrong, 0.0), (right, 1.0)):
        assert [scores["exact_match"] for scores in task.score(items, answers)] == [value, value]
    half = task.score(items[1:], wrong[1:])
    assert len(half) == 1


def test_shots_and_limit_change_what_is_asked():
    task = tasks.load(["kick_mini_factoid"])["kick_mini_factoid"]
    assert task.default_shots == 4
    prompts = {
        shots: task.items(TaskSpec("kick_mini_factoid", shots=shots, limit=1), None)[0].requests[0].context
        for shots in (0, 1, 4, None)
    }
    assert prompts[0].count("Question:") == 1
    assert prompts[1].count("Question:") == 2
    assert prompts[4] == prompts[None]
    assert prompts[4].endswith(prompts[0])


def test_a_chat_template_must_be_there():
    class Bare:
        chat_template = None

    task = tasks.load(["kick_mini_factoid"])["kick_mini_factoid"]
    with pytest.raises(KickError, match=r"kick_mini_factoid: a chat template was asked for, but .* has none"):
        task.items(TaskSpec("kick_mini_factoid", limit=1, chat_template=True), Bare())


class Instance:
    def __init__(self, kind, *args):
        self.request_type, self.args = kind, args


def test_every_sampled_item_has_a_seed_of_its_own():
    options = {"do_sample": True, "temperature": 0.7}
    seeds = [request_of(Instance("generate_until", text, options), r).seed for text in "ab" for r in (0, 1)]
    assert len(set(seeds)) == 4
    assert request_of(Instance("generate_until", "a", options)).seed == seeds[0]
    assert request_of(Instance("generate_until", "a", {})).seed == 0
    assert request_of(Instance("loglikelihood", "a", " b")) == Request("loglikelihood", "a", " b")


# ------------------------------------------------------------------------------ lm-eval's own tasks


@pytest.fixture
def part_of_lm_eval(monkeypatch, tmp_path):
    """lm-eval's index over a few of its folders: the whole takes 15 seconds."""
    for name in ("mmlu/default", "nq_open", "wikitext"):
        shutil.copytree(LM_EVAL / name, tmp_path / "lm_eval" / "tasks" / name)
    shutil.copy(LM_EVAL / "benchmarks" / "openllm.yaml", tmp_path / "lm_eval" / "tasks")
    plain = index._manager
    extra = (str(tmp_path / "lm_eval" / "tasks"),)
    monkeypatch.setattr(
        index, "_manager", lambda _, defaults, root: plain(extra if defaults else (), False, root)
    )


QUESTIONS = [
    {
        "question": f"Which is {i}?",
        "subject": ("anatomy", "virology")[i % 2],
        "choices": list("wxyz"),
        "answer": i % 4,
    }
    for i in range(12)
]


def test_a_task_of_lm_evals_is_fed_from_the_mirror(tmp_path, part_of_lm_eval):
    for split in ("dev", "validation", "test"):
        root = mirror(tmp_path / "root", f"mmlu/{split}.parquet", QUESTIONS)
    task = tasks.load(["mmlu_anatomy"], root)["mmlu_anatomy"]
    items = task.items(TaskSpec("mmlu_anatomy"), None)
    assert task.size == len(items) == 6  # its own subject and never all
    assert {item.group for item in items} == {"anatomy"}
    assert "about anatomy" in items[0].requests[0].context
    assert [r.continuation for r in items[0].requests] == [" A", " B", " C", " D"]
    shown = task.items(TaskSpec("mmlu_anatomy", shots=2, limit=1), None)[0].requests[0].context
    assert shown.count("Answer:") == 3
    again = tasks.load(["mmlu_anatomy"], root)["mmlu_anatomy"]
    assert (again.digest, again.scoring) == (task.digest, task.scoring)
    mirror(tmp_path / "root", "mmlu/test.parquet", QUESTIONS[2:])
    assert tasks.load(["mmlu_anatomy"], root)["mmlu_anatomy"].digest != task.digest


def test_a_split_that_only_examples_need_may_be_absent(tmp_path, part_of_lm_eval):
    rows = [{"question": "who was it", "answer": ["Ada", "Ada Lovelace"]}]
    root = mirror(tmp_path / "root", "nq_open/validation.jsonl", rows)
    task = tasks.load(["nq_open"], root)["nq_open"]
    (item,) = task.items(TaskSpec("nq_open", shots=0), None)
    assert "who was it" in item.requests[0].context
    (scores,) = task.score([item], [[Response(text="Ada")]])
    assert set(scores.values()) == {1.0}
    with pytest.raises(KickError, match="nq_open with 5 shots: the mirror has no split 'train'"):
        task.items(TaskSpec("nq_open", shots=5), None)


def test_rolling_perplexity_of_lm_evals_wikitext(tmp_path, part_of_lm_eval):
    lines = [" = One = \n", " Some words here . \n", " = Two = \n", " More . \n"]
    root = mirror(tmp_path / "root", "wikitext2_raw/test.jsonl", [{"text": line} for line in lines])
    task = tasks.load(["wikitext"], root)["wikitext"]
    items = task.items(TaskSpec("wikitext"), None)
    assert [item.requests[0].kind for item in items] == ["rolling", "rolling"]
    scores = task.score(items, [[Response(logprob=-8.0, count=4)], [Response(logprob=-4.0, count=2)]])
    assert [row["rolling_nll"] for row in scores] == [8.0, 4.0]
    assert {name for row in scores for name in row} >= {"rolling_nll", "words", "bytes"}


def test_a_mirror_without_what_is_asked_is_an_error(tmp_path, part_of_lm_eval):
    root = mirror(tmp_path / "root", "nq_open/train.jsonl", [{"question": "q", "answer": ["a"]}])
    with pytest.raises(KickError, match="nq_open, but has no split 'validation'"):
        tasks.load(["nq_open"], root)


def test_options_inside_lm_evals_groups_are_refused_too(part_of_lm_eval):
    with pytest.raises(KickError, match=r"group openllm: a member must be .*arc_challenge"):
        tasks.load(["openllm"])


def test_all_of_mmlu_from_the_shared_mirror(part_of_lm_eval):
    if not SHARED.is_dir():
        pytest.skip("LOUD: ../shared is absent, lm-eval's mmlu was not fed from the real mirror")
    task = tasks.load(["mmlu_anatomy"], str(SHARED))["mmlu_anatomy"]
    assert task.size == 135


OPPOSITES = """
task: opposites
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/o.jsonl}}}}
test_split: {split}
output_type: generate_until
doc_to_text: "The opposite of {{{{{column}"
doc_to_target: opposite
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
{more}
"""


@pytest.mark.parametrize(
    ("split", "column", "data", "more", "words"),
    [
        ("test", "word}} is", '{"word": "hot"', "", "task opposites .*o.yaml.*o.jsonl:1: not JSON"),
        ("tset", "word}} is", '{"word": "hot", "opposite": "cold"}', "", "'tset'"),
        ("test", "word", '{"word": "hot", "opposite": "cold"}', "", "TemplateSyntaxError"),
        ("test", "wrd}} is", '{"word": "hot", "opposite": "cold"}', "", "'wrd' is undefined"),
        ("test", "word}} is", "{}", "metadata: 5", "metadata: got 5; expected: a mapping"),
        ("test", "word}} is", "{}", "metadata: {kick: {protocal: reading}}", "unknown key 'protocal'"),
        ("test", "word}} is", "{}", "metric_list: exact_match", "metric_list: got 'exact_match'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_task_file_of_ones_own_are_told_in_a_line(tmp_path, split, column, data, more, words):
    text = OPPOSITES.format(folder=tmp_path, split=split, column=column, more=more)
    (tmp_path / "o.yaml").write_text(text)
    (tmp_path / "o.jsonl").write_text(data + "\n")
    with pytest.raises(KickError, match=words):
        tasks.load(["opposites"], None, [tmp_path])
