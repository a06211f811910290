"""LLM-KICK's tasks on real data: documents, order, prompts, what is cut, two turns, scores."""

import math
from collections import Counter

import pytest

from kick import tasks
from kick.analysis.groups import DISCIPLINES, SUBJECTS
from kick.engine import Engine
from kick.errors import KickError
from kick.records import Response
from kick.tasks import conflict, data, llm_kick
from kick.tasks.evaluate import evaluate, rescore
from kick.tasks.lm_eval_task import item_ids
from kick.tasks.order import Order, balanced, distinct
from kick.tasks.reading import cut
from kick.tasks.text import words
from tests.support.llm_kick import mirror, smoke, spec, task

LEAVES = tasks.index.expand(["llm_kick", "llm_kick_fast"])


class Scripted:
    """An engine that says what it is told to: texts by request."""

    def __init__(self, say):
        self.say = say
        self.asked = []

    def answer(self, requests, on_done=None):
        found = []
        for index, request in enumerate(requests):
            self.asked.append(request)
            text = self.say(request)
            found.append(Response(text=text, tokens=tuple(range(len(text.split()))), count=len(text.split())))
            if on_done:
                on_done(index, found[-1])
        return found


# ---------------------------------------------------------------------------------------- all tasks


def test_every_task_of_the_protocol_is_there():
    assert set(tasks.index.expand(["llm_kick"])) == {
        "kick_factoid_qa_nq",
        "kick_factoid_qa_triviaqa",
        "kick_mcr_qa",
        "kick_mcr_qa_gen",
        "kick_icra_qa_closed",
        "kick_icra_qa_open",
        "kick_conflict_qa",
        "kick_summarization",
        "kick_summarization_fidelity",
        "kick_instruction_following",
        "kick_mt_bench",
        "kick_perplexity",
        "kick_perplexity_512",
        "kick_fidelity",
    }


def test_a_sample_is_made_of_the_whole_tasks_items():
    for name in ("kick_factoid_qa_nq", "kick_mcr_qa", "kick_icra_qa_open", "kick_summarization"):
        whole, some = (item_ids(task(n).task.eval_docs.to_list()) for n in (name, f"{name}_fast"))
        assert set(some) <= set(whole)
        assert len(some) == task(f"{name}_fast").options["sample"] < len(whole)


def test_a_samples_standard_error_is_the_binomials_with_the_finite_correction():
    for name in LEAVES:
        options = tasks.index.own()[name][1]["metadata"]["kick"]
        if "standard_error" not in options:
            continue
        n, of = options["sample"], task(name.removesuffix("_fast")).size
        worst = 100 * math.sqrt(0.25 / n * (1 - n / of))
        assert options["standard_error"] == pytest.approx(worst, abs=0.05)


# ---------------------------------------------------------------------------------------- order


def test_every_prefix_is_balanced_over_groups():
    rows = [{"id": i, "group": "big" if i < 80 else "small"} for i in range(100)]
    found = balanced(rows, lambda row: row["group"])
    assert sorted(row["id"] for row in found) == list(range(100))
    for n in range(1, 101):
        share = sum(row["group"] == "small" for row in found[:n])
        assert abs(share - n / 5) <= 1
    assert [row["id"] for row in found[:80]] != sorted(row["id"] for row in found[:80])


def test_order_depends_on_content_alone():
    rows = [{"q": str(i)} for i in range(50)]
    assert balanced(rows, lambda row: "") == balanced(rows[::-1], lambda row: "")
    assert Order(take=3)(rows) == Order()(rows)[:3]
    assert Order(shuffle=False)(rows) == rows
    assert distinct([{"a": 1, "b": 1}, {"a": 1, "b": 2}], ["a"]) == [{"a": 1, "b": 1}]


def test_the_first_questions_of_mmlu_are_spread_over_subjects():
    counts = Counter(task("kick_mcr_qa").task.eval_docs["subject"][:570])
    assert set(counts) == SUBJECTS
    assert counts["professional_law"] == pytest.approx(570 * 1534 / 14042, abs=1)
    assert all(any(s in counts for s in subjects) for subjects in DISCIPLINES.values())


# ---------------------------------------------------------------------------------------- MMLU


@pytest.mark.parametrize("name", ["kick_mcr_qa", "kick_mcr_qa_gen"])
def test_header_and_examples_are_of_the_questions_own_subject(name):
    dev = data.load("cais/mmlu", ["dev"], "all", mirror())["dev"].to_list()
    for item in task(name).items(spec(name, limit=6), smoke()[1]):
        prompt = item.requests[0].context
        assert prompt.startswith(
            "The following are multiple choice questions (with answers) about "
            f"{item.group.replace('_', ' ')}.\n\n"
        )
        own = [row["question"].strip() for row in dev if row["subject"] == item.group]
        assert len(own) == 5
        places = [prompt.find(question) for question in own]
        assert -1 not in places
        assert places == sorted(places)
        assert prompt.count("\nAnswer:") == 6


def test_shots_are_taken_as_asked_and_refused_beyond_five():
    name = "kick_mcr_qa"
    for shots in (0, 2):
        (item,) = task(name).items(spec(name, limit=1, shots=shots), smoke()[1])
        assert item.requests[0].context.count("\nAnswer:") == shots + 1
    with pytest.raises(KickError, match=r"5 examples .* 6 shots"):
        task(name).items(spec(name, limit=1, shots=6), smoke()[1])


def test_the_examples_are_part_of_what_is_asked():
    one = task("kick_mcr_qa")
    assert len(one.task.fewshot_docs()) == 285
    assert one.size == 14042


@pytest.mark.parametrize(
    ("said", "scores"),
    [
        (" {right}", (1, 0, 1)),
        (" ({right}).", (1, 0, 1)),
        (" {wrong}", (0, 0, 0)),
        (" The answer is {right}", (0, 1, math.nan)),
        ("", (0, 1, math.nan)),
    ],
)
def test_losing_the_form_is_told_from_losing_the_knowledge(said, scores):
    one = task("kick_mcr_qa_gen")
    items = one.items(spec("kick_mcr_qa_gen", limit=4), smoke()[1])

    def say(request):
        right = next(i.target for i in items if i.requests[0] == request)
        return said.format(right=right, wrong="ABCD"["ABCD".index(right) - 1])

    for sample in evaluate(one, items, Scripted(say)).samples:
        got = [sample.scores[m] for m in ("exact_match", "format_failure", "among_labels")]
        assert got == pytest.approx(scores, nan_ok=True)


# ---------------------------------------------------------------------------------------- reading


def test_closed_and_open_ask_the_same_items():
    closed, opened = (
        task(n).items(spec(n, limit=30), smoke()[1]) for n in ("kick_icra_qa_closed", "kick_icra_qa_open")
    )
    assert [item.id for item in closed] == [item.id for item in opened]
    for item, other in zip(opened, closed, strict=True):
        assert f"{item.doc['answer']}" in item.requests[0].context
        assert item.doc["context"][:40] not in other.requests[0].context


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("w3", "w0 w1 w2 w3 w4"),
        ("w19", "w15 w16 w17 w18 w19"),
        ("w10", "w8 w9 w10 w11 w12"),
        ("no", "w0 w1 w2 w3 w4"),
    ],
)
def test_a_context_is_cut_at_the_end_that_does_not_hold_the_answer(answer, kept):
    class Words:
        def __call__(self, text, **_):
            spans, start = [], 0
            for word in text.split(" "):
                spans.append((start, start + len(word)))
                start += len(word) + 1
            return {"offset_mapping": spans}

    text = " ".join(f"w{i}" for i in range(20))
    assert cut(text, [answer], -1, Words(), 5) == kept
    assert cut(text, [answer], -1, Words(), 20) == text


def test_what_was_cut_is_counted_and_rescored_alike():
    one = tasks.load(["kick_icra_qa_open"], mirror())["kick_icra_qa_open"]
    one.options["context_tokens"] = 300
    how = spec("kick_icra_qa_open", limit=12)
    items = one.items(how, smoke()[1])
    found = evaluate(one, items, Scripted(lambda request: "x"))
    cuts = [sample.scores["cut"] for sample in found.samples]
    assert 0 < sum(cuts) < 12
    for item, was_cut in zip(items, cuts, strict=True):
        start, answer = item.doc["start"], item.doc["answer"]
        assert item.doc["context"][start : start + len(answer)] == answer
        assert answer in item.requests[0].context
        assert (item.doc["context"] in item.requests[0].context) == (not was_cut)
    again = rescore(one, how, found.samples)
    assert [s.scores for s in again.samples] == [s.scores for s in found.samples]


def test_a_conflicting_passage_says_another_answer_and_no_longer_the_true_one():
    docs = list(task("kick_conflict_qa").task.eval_docs)
    assert len(docs) > 150
    for doc in docs:
        said, passage = doc["context_answer"], doc["passage"]
        assert said in passage
        assert not set(words(doc["memory_answer"])) & set(words(said))
        assert f" {doc['memory_answer']} " not in f" {passage} "
        assert doc["memory_answer"].lower() not in doc["question"].lower()
    assert Counter(doc["kind"] for doc in docs).keys() == {"person", "place", "year", "number"}


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("Who wrote it?", "Ada Byron", "person"),
        ("When did it end?", "1815", "year"),
        ("When did it end?", "in spring", ""),
        ("How many came?", "4,000", "number"),
        ("In what city was it?", "Ghent", "place"),
        ("Where did they go?", "to the sea", ""),
        ("Why?", "Because", ""),
    ],
)
def test_kinds_are_told_by_question_and_shape(question, answer, kind):
    assert conflict.kind_of(question, answer) == kind


def test_answers_from_passage_and_from_memory_are_told_apart():
    one = task("kick_conflict_qa")
    items = one.items(spec("kick_conflict_qa", limit=6), smoke()[1])
    by_prompt = {item.requests[0]: item.doc for item in items}
    for which in ("context", "memory"):
        found = evaluate(one, items, Scripted(lambda r, w=which: by_prompt[r][f"{w}_answer"]))
        values = {score.metric: score.value for score in found.scores}
        assert values["from_context"] == (which == "context")
        assert values["from_memory"] == (which == "memory")


# ---------------------------------------------------------------------------------------- facts


def test_freebase_answers_are_found_however_they_are_nested():
    listed = {
        "RawQuestion": "who?",
        "Parses": [{"Answers": [{"AnswersMid": "m", "AnswersName": ["a", "b"]}]}],
    }
    columns = {
        "RawQuestion": "who",
        "Parses": {"Answers": [{"AnswersMid": ["m"], "AnswersName": [["a"], ["b"]]}]},
    }
    for row in (listed, columns):
        (doc,) = llm_kick.freebase_qa([row])
        assert (doc["question"], doc["answer"], doc["aliases"]) == ("who?", "a", ["b"])


def test_freebase_is_read_from_a_users_mirror_and_else_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(KickError, match=r"freebase_qa.*searched: the embedded suite, the mirror"):
        tasks.load(["kick_factoid_qa_freebaseqa"], str(tmp_path))
    folder = tmp_path / "freebase_qa"
    folder.mkdir()
    row = '{"RawQuestion": "q%d", "Parses": [{"Answers": [{"AnswersMid": "m", "AnswersName": ["a"]}]}]}\n'
    (folder / "test.jsonl").write_text("".join(row % i for i in range(3)))
    assert tasks.load(["kick_factoid_qa_freebaseqa"], str(tmp_path))["kick_factoid_qa_freebaseqa"].size == 3


def test_a_subset_is_named_when_it_is_read(caplog):
    data.load("mandarjoshi/trivia_qa", ["validation"], "rc.nocontext", mirror())
    assert "mandarjoshi/trivia_qa is read from" in caplog.text
    assert "a subset of it" in caplog.text


# ---------------------------------------------------------------------------------------- instructions


def test_the_second_turn_follows_the_models_own_first_answer():
    one = task("kick_mt_bench")
    for chat in (False, True):
        items = one.items(spec("kick_mt_bench", limit=3, chat=chat), smoke()[1])
        engine = Scripted(
            lambda request: " my first answer" if "my first" not in request.context else "and more"
        )
        found = evaluate(one, items, engine)
        assert len(engine.asked) == 6
        for item, second in zip(items, engine.asked[3:], strict=True):
            asked = [item.doc["turns"][0], "Answer: my first answer", item.doc["turns"][1], "Answer:"]
            places = [second.context.find(part) for part in asked[:3]]
            assert places == sorted(places)
            assert -1 not in places
            assert second.context.endswith("Answer:")
            assert second.max_tokens == item.requests[0].max_tokens
        assert all(len(sample.responses) == 2 for sample in found.samples)
        assert found.samples[0].scores["length"] == 2.5  # of 3 and of 2 words
        assert found.samples[0].scores["unfinished"] == 0


def test_vicuna_asks_once_and_brings_the_reference_answers():
    one = task("kick_instruction_following")
    items = one.items(spec("kick_instruction_following"), smoke()[1])
    assert len(items) == 80
    assert one.follow_up(items, [[Response(text="x")]] * 80) is None
    assert sum(bool(item.doc["reference"]) for item in items) == 10
    assert sum(bool(doc["reference"]) for doc in task("kick_mt_bench").task.eval_docs) == 30


# ---------------------------------------------------------------------------------------- running text


def test_windows_are_of_the_rows_joined_by_two_newlines():
    rows = data.load("Salesforce/wikitext", ["test"], "wikitext-2-raw-v1", mirror())["test"]["text"]
    tokenizer = smoke()[1]
    ids = tokenizer("\n\n".join(rows[:800]), verbose=False)["input_ids"]
    name = "kick_perplexity_fast"
    items = task(name).items(spec(name), tokenizer)
    assert [t for item in items for t in item.requests[0].tokens] == ids[: len(items) * 2048]
    assert len(items) == len(ids) // 2048
    assert {len(item.requests[0].tokens) for item in items} == {2048}
    assert [task(n).seqlen for n in ("kick_perplexity", "kick_perplexity_512")] == [2048, 512]


def test_prefixes_go_through_all_pages_first():
    docs = list(task("kick_fidelity").task.eval_docs)
    assert len(docs) > 1000
    assert len({doc["id"] for doc in docs[:60]}) == 60
    assert all(len(doc["prefix"].split(" ")) == 32 for doc in docs)


def test_summaries_are_compared_under_the_prompt_they_were_asked_with():
    tokenizer = smoke()[1]
    names = "kick_summarization", "kick_summarization_fidelity", "kick_fidelity"
    plain = {name: task(name).items(spec(name, 2), tokenizer)[1].requests[0].context for name in names}
    chat = {
        name: task(name).items(spec(name, 2, chat=True), tokenizer)[1].requests[0].context for name in names
    }
    assert chat["kick_summarization"] == chat["kick_summarization_fidelity"] != plain["kick_summarization"]
    assert plain["kick_summarization"] == plain["kick_summarization_fidelity"]
    assert chat["kick_fidelity"] == plain["kick_fidelity"]  # running text


def test_wikitext_pages_are_the_published_text():
    pages = data.load("EleutherAI/wikitext_document_level", ["test"], "wikitext-2-raw-v1", mirror())["test"]
    assert len(pages) == 62
    assert sum(len(page.encode()) for page in pages["page"]) == 1290590 - 2  # its first line, a blank one


# the long ones differ from their samples in nothing but number and length
@pytest.mark.parametrize(
    "name", [n for n in LEAVES if f"{n}_fast" not in LEAVES and n != "kick_summarization_fidelity"]
)
def test_every_task_runs_from_prompt_to_scores(name):
    model, tokenizer = smoke()
    items = task(name).items(spec(name, limit=1), tokenizer)
    found = evaluate(task(name), items, Engine(model, tokenizer))
    primary = tasks.index.own()[name][1]["metadata"]["kick"]["primary"]
    assert primary in {score.metric for score in found.scores}
    assert all(score.n + score.missing == len(items) for score in found.scores)
