"""Variants that a server answers for, beside the same model on this machine."""

import json
import math
import shutil

import pytest

import kick
from kick import cli
from kick.analysis import frame
from kick.errors import KickError
from kick.matrix.load import load
from kick.matrix.served import ServedModel
from kick.matrix.servers import EndpointKeys
from kick.store import Store
from tests.support import small_tasks
from tests.support.judge_server import refused, serving
from tests.support.model_server import KEY, ModelServer

TASKS = (*small_tasks.TASKS, "kick_mini_perplexity", "kick_mini_fidelity")
LIMIT = {"kick_mini_perplexity": 1, "kick_mini_fidelity": 1}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a matrix with a served variant; gives the run and the variant's results by task."""
    monkeypatch.setenv("KICK_TEST_KEY", KEY)
    tasks = small_tasks.write(tmp_path / "tasks")
    options = kick.RunOptions(
        out=str(tmp_path / "results"), task_folders=(str(tasks),), executor="inline", view="json"
    )

    def of(*variants, names=TASKS):
        limit = {name: number for name, number in LIMIT.items() if name in names}
        limited = {"limit": limit} if limit else {}
        made = small_tasks.matrix(tasks=names, variants=list(variants), **limited)
        ran = kick.run(made, options=options)
        runs = list(Store(ran.folder).runs())
        return ran, {run.cell.task.name: run for run in runs if run.cell.variant.endpoint}

    return of


def endpoint(server, **more):
    keys = {"base_url": server.url, "model": "smoke", "engine": "stand-in 1", "key_variable": "KICK_TEST_KEY"}
    return {"endpoint": {**keys, **more}, "name": "served"}


def value(run, metric):
    return next(score.value for score in run.scores if score.metric == metric)


def test_the_served_model_scores_as_the_same_model_here(run):
    with serving(ModelServer(key=KEY)) as server:
        ran, found = run("dense", endpoint(server))
    assert ran.done
    store = Store(ran.folder)
    dense = {one.cell.task.name: one for one in store.runs() if one.cell.variant.dense}
    for task, sizes in (("tiny_numbers", 12), ("tiny_words", 4)):
        pairs = zip(store.samples(dense[task].key), store.samples(found[task].key), strict=True)
        answers = [
            (a, b) for one, other in pairs for a, b in zip(one.responses, other.responses, strict=True)
        ]
        assert len(answers) == sizes
        for ours, theirs in answers:
            assert ours.text == theirs.text
            assert (ours.greedy, ours.truncated) == (theirs.greedy, theirs.truncated)
            if ours.logprob is not None:
                assert theirs.logprob == pytest.approx(ours.logprob, abs=1e-4)
    ours, theirs = (value(one["kick_mini_perplexity"], "perplexity") for one in (dense, found))
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_what_it_cannot_answer_is_missing_and_says_so(run):
    with serving(ModelServer(echo=False)) as server:
        ran, found = run("dense", endpoint(server))
    assert ran.status == 0
    assert value(found["tiny_numbers"], "acc") is None
    assert value(found["tiny_words"], "exact_match@whole") is not None
    assert any("does not give log-probabilities of a prompt" in one for one in found["tiny_numbers"].warnings)
    assert any("HTTP 400" in one for one in found["kick_mini_perplexity"].warnings)
    assert value(found["kick_mini_fidelity"], "fdt") is None
    assert any("(fidelity)" in one for one in found["kick_mini_fidelity"].warnings)
    assert not any("does not give" in one for one in found["tiny_words"].warnings)
    assert not any("echo" in one for one in found["kick_mini_fidelity"].warnings)


def test_a_server_with_chat_completions_alone_answers_what_is_generated(run):
    with serving(ModelServer(chat=True)) as server:
        ran, found = run("dense", endpoint(server, api="chat"))
        asked = [sorted(one.body) for one in server.asked]
    assert ran.status == 0
    store = Store(ran.folder)
    (dense,) = [r for r in store.runs() if r.cell.variant.dense and r.cell.task.name == "tiny_words"]
    texts = [
        [one.text for sample in store.samples(key) for one in sample.responses]
        for key in (dense.key, found["tiny_words"].key)
    ]
    assert len(texts[0]) == 4
    assert texts[0] == texts[1], "the stand-in reads what a user says as it is"
    assert value(found["tiny_words"], "exact_match@whole") is not None
    assert value(found["tiny_numbers"], "acc") is None
    assert value(found["kick_mini_perplexity"], "perplexity") is None
    for task in ("tiny_numbers", "kick_mini_perplexity"):
        assert any("chat completions have none (api: chat)" in one for one in found[task].warnings)
    assert found["tiny_words"].provenance["engine"]["prompts"] == "user turns"
    assert found["tiny_words"].cell.engine == "endpoint stand-in 1 by chat"
    assert len(asked) == 4, "nothing is asked that it cannot answer"
    assert all("messages" in keys and "prompt" not in keys for keys in asked)


def test_a_server_without_completions_is_told_how_it_is_asked(run):
    with serving(ModelServer(chat=True)) as server:
        ran, _ = run("dense", endpoint(server), names=("tiny_words",))
    (failure,) = Store(ran.folder).failures()
    assert "HTTP 404" in failure.cause
    assert "if the server has chat completions alone: api: chat" in failure.cause


def test_a_refused_prompt_costs_its_own_item_only(run):
    model, echoes = ModelServer(), []

    def narrow(asked):
        echoes.append(asked.number)
        return refused(400, "the prompt is too long") if len(echoes) == 6 else model(asked)

    with serving(narrow) as server:
        ran, found = run("dense", endpoint(server, workers=1), names=("tiny_numbers",))
    stored = Store(ran.folder)
    cell = found["tiny_numbers"]
    logs = [one.logprob for sample in stored.samples(cell.key) for one in sample.responses]
    assert len(echoes) == len(logs) == 12
    assert sum(math.isnan(one) for one in logs) == 1
    score = next(score for score in cell.scores if score.metric == "acc")
    assert (score.missing, score.value is None) == (1, False)
    assert any("did not give every item log-probabilities" in one for one in cell.warnings)


def test_a_server_without_token_ids_gets_texts(run):
    with serving(ModelServer(ids=False)) as server:
        _, found = run("dense", endpoint(server), names=("tiny_words",))
        prompts = [asked.body["prompt"] for asked in server.asked]
    assert isinstance(prompts[-1], str)
    assert found["tiny_words"].provenance["engine"]["prompts"] == "texts"
    assert value(found["tiny_words"], "exact_match@whole") is not None


def test_verdicts_need_a_dense_model_of_the_same_engine(run):
    with serving(ModelServer()) as server:
        ran, _ = run("dense", endpoint(server), names=("tiny_numbers",))
        read = frame.read([Store(ran.folder)]).frame
        assert read.loc[read["variant"] == "served", "foreign"].all()
        shutil.rmtree(ran.folder)  # else two models are dense there, and either may be taken
        both = [endpoint(server, revision=str(i)) for i in (1, 2)]
        both[0] |= {"dense": True, "name": "served dense"}
        ran, _ = run(*both, names=("tiny_numbers",))
    read = frame.read([Store(ran.folder)]).frame
    rows = read[(read["variant"] == "served") & ~read["foreign"]]
    assert set(rows.loc[rows["primary"], "verdict"]) == {"undecided"}  # of 6 items
    assert set(read.loc[read["dense"] & (read["engine"] != ""), "engine"]) == {"endpoint stand-in 1"}


def test_the_key_is_nowhere(run, tmp_path, capsys, caplog):
    caplog.set_level("DEBUG")
    with serving(ModelServer(key="another key")) as server:
        ran, found = run("dense", endpoint(server), names=("tiny_words",))
    assert ran.status == 1
    assert not found
    (failure,) = Store(ran.folder).failures()
    assert "refused KICK_TEST_KEY (HTTP 401)" in failure.cause
    told = capsys.readouterr()
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(KEY.encode() in data for data in files)
    assert KEY not in told.out + told.err + caplog.text


def test_a_server_that_breaks_off_costs_only_what_it_did_not_answer(run):
    model = ModelServer()

    def broken(asked):
        return model(asked) if asked.number < 2 else refused(400, "out of order")

    with serving(broken) as server:
        ran, _ = run("dense", endpoint(server, workers=1), names=("tiny_words",))
        (failure,) = Store(ran.folder).failures()
        assert "gave no reply to 2 of 4 requests" in failure.cause
        assert "--retry-failed" in failure.cause


def test_keys_tell_host_model_revision_and_engine(tmp_path):
    def key(**more):
        keys = {"base_url": "http://a:1/v1", "model": "m", **more}
        served = ServedModel.of(EndpointKeys.model_validate(keys))
        assert ServedModel.read(served.text) == served
        return served.spec().name, served.spec().revision, served.identity

    names = [key(), key(base_url="http://b:1/v1"), key(model="n"), key(revision="2"), key(engine="vllm 1")]
    names += [key(api="chat"), key(engine="vllm 1", api="chat")]
    assert len(set(names)) == len(names)
    assert key(timeout=3.0, workers=1, key_variable="X") == key()
    assert key() == ("m at a:1", None, "endpoint at a:1")


WRONG = [
    ({"endpoint": {"base_url": "localhost", "model": "m"}}, "expected: an address that starts with http"),
    ({"endpoint": {"base_url": "http://u:p@h/v1", "model": "m"}}, "a name or key in the address"),
    ({"endpoint": {"base_url": "http://h", "model": "m", "api": "chta"}}, "unknown API 'chta'"),
    ({"endpoint": {"model": "m"}}, "the key 'base_url' is missing"),
    ({"endpoint": {"base_url": "http://h", "model": "m", "key_variable": "sk-1"}}, "never the key itself"),
    ({"endpoint": {"base_url": "http://h", "model": "m", "api_key": "x"}}, "unknown key 'api_key'"),
]


@pytest.mark.parametrize(("entry", "said"), WRONG)
def test_wrong_keys_are_refused(entry, said):
    with pytest.raises(KickError, match=said):
        load(small_tasks.matrix(variants=["dense", entry]))


def test_a_served_dense_model_has_only_endpoints_beside_it():
    served = {"endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}, "dense": True}
    with pytest.raises(KickError, match="only endpoints can be compared with it"):
        kick.plan(
            small_tasks.matrix(
                tasks=["kick_mini_mcq"], variants=[served, {"method": "magnitude", "sparsity": 0.5}]
            )
        )
    with pytest.raises(KickError, match="a second dense model"):
        kick.plan(small_tasks.matrix(tasks=["kick_mini_mcq"], variants=["dense", served]))


def test_a_server_that_makes_the_prompts_gets_none_of_our_templates():
    served = {"endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m", "api": "chat"}}
    made = small_tasks.matrix(tasks=["kick_mini_factoid"], variants=["dense", served], chat_template=True)
    with pytest.raises(KickError, match="its server makes the prompt of a conversation itself"):
        kick.plan(made)


def test_plan_asks_no_server_and_shows_no_key(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KICK_TEST_KEY", KEY)
    keys = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "key_variable": "KICK_TEST_KEY"}
    file = tmp_path / "m.yaml"
    file.write_text(
        json.dumps(small_tasks.matrix(tasks=["kick_mini_mcq"], variants=["dense", {"endpoint": keys}]))
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(file), "--json", "--out", str(tmp_path)])
    assert not ended.value.code
    assert KEY not in capsys.readouterr().out
