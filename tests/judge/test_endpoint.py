"""The endpoint of a judge on a server that misbehaves: retries, waits, bounds, budget, and the key kept."""

import json
import time
from email.utils import formatdate

import pytest

from kick.errors import KickError
from kick.judge import endpoint
from kick.judge.endpoint import Budget, Endpoint, Reply, Settings, Stopped, Unanswered
from tests.support.judge_server import Answer, honest, refused, said, serving

KEY = "sk-test-4f1d0c9b8a7e6d5c"
ASK = [{"role": "system", "content": 'Form: {"code": "abc"}'}, {"role": "user", "content": "?"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings(server, **more):
    given = {"backoff": 0.01, "timeout": 5.0, "attempts": 3, "max_tokens": 20, **more}
    return Settings("judge-1", server.url, **given)


def ask(server, **more):
    with Endpoint(settings(server, **more)) as judge:
        return judge.complete(ASK, seed=3)


def in_turn(*answers):
    """The answers one after another, the last one again and again."""
    return lambda asked: answers[min(asked.number, len(answers) - 1)]


def test_sends_the_pinned_model_and_parameters_and_the_key_in_the_header_only():
    with serving(lambda _: said("fine")) as server:
        reply = ask(server, temperature=0.25, top_p=0.5)
    sent = server.asked[0]
    wanted = {"model": "judge-1", "temperature": 0.25, "top_p": 0.5, "max_tokens": 20, "seed": 3}
    assert {name: sent.body[name] for name in wanted} == wanted
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(sent.body)
    assert reply == Reply("fine", 100, "judge-1-0613", "stop")


TROUBLES = {
    "500": refused(500),
    "503": refused(503),
    "429": refused(429),
    "408": refused(408),
    "HTML": Answer(b"<html><body>Welcome</body></html>", headers={"Content-Type": "text/html"}),
    "HTML called JSON": Answer(b"<html>", headers={"Content-Type": "application/json"}),
    "empty body": Answer(b""),
    "cut connection": Answer(said("fine").body, cut=True),
    "cut JSON": Answer(said("fine").body[:40]),
    "no choices": Answer(b'{"choices": []}'),
    "another schema": Answer(b'{"result": "ok"}'),
    "a list": Answer(b"[1, 2]"),
    "choices of text": Answer(b'{"choices": ["x"]}'),
    "content of another type": said(["part"]),
    "an error under 200": Answer(b'{"error": {"message": "overloaded"}}'),
    "deep JSON": Answer(b"[" * 100_000),
    "not UTF-8": Answer(b"\xff\xfe{}"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_that_passes_is_asked_again(name):
    with serving(in_turn(TROUBLES[name], said("fine"))) as server:
        assert ask(server).text == "fine"
    assert len(server.asked) == 2


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_that_stays_ends_after_the_attempts(name):
    with serving(in_turn(TROUBLES[name])) as server, pytest.raises(Unanswered) as caught:
        ask(server)
    assert len(server.asked) == 3
    assert caught.value.__context__ is None


def test_times_out_before_and_inside_a_reply():
    slow = Answer(said("late").body, delay=1.0)
    dripping = Answer(said("late").body, drip=0.02)
    for answer in (slow, dripping):
        start = time.monotonic()
        with serving(in_turn(answer)) as server, pytest.raises(Unanswered, match="timeout"):
            ask(server, timeout=0.2, attempts=2)
        assert time.monotonic() - start < 10
        assert len(server.asked) == 2


def test_no_server_at_all():
    with serving(honest) as server:
        pass
    with pytest.raises(Unanswered, match="no connection"):
        ask(server)


def test_a_body_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(endpoint, "MOST_BYTES", 1000)
    with serving(lambda _: said("x" * 5000)) as server, pytest.raises(Unanswered, match="over 1,000 bytes"):
        ask(server)


def test_waits_as_long_as_retry_after_says():
    for header in ({"Retry-After": "0.6"}, {"retry-after-ms": "600"}):
        with serving(in_turn(refused(429, headers=header), said("fine"))) as server:
            assert ask(server).text == "fine"
        assert server.asked[1].time - server.asked[0].time > 0.55


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("soon", None), ("-3", None), ("1e9999", None)])
def test_reads_retry_after(header, seconds):
    assert endpoint._retry_after({"retry-after": header}) == seconds


def test_reads_retry_after_as_a_date():
    assert 27 < endpoint._retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) <= 30
    assert endpoint._retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_an_endpoint_that_wants_an_hour_stops_the_pass():
    answer = refused(429, headers={"Retry-After": "3600"})
    with serving(in_turn(answer)) as server, pytest.raises(Stopped, match="asks to wait 3600 s"):
        ask(server)
    assert len(server.asked) == 1


def test_backs_off_exponentially_with_jitter(monkeypatch):
    waits = []
    with (
        serving(in_turn(refused(500))) as server,
        Endpoint(settings(server, attempts=6, backoff=1.0)) as judge,
    ):
        monkeypatch.setattr(judge._over, "wait", waits.append)
        with pytest.raises(Unanswered):
            judge.complete(ASK, 0)
    assert len(waits) == 5
    for number, seconds in enumerate(waits):
        assert 2**number / 2 <= seconds <= 2**number


def test_an_endpoint_that_refuses_everything_stops_the_pass_in_its_own_words():
    with serving(in_turn(refused(422, "no field seed"))) as server, Endpoint(settings(server)) as judge:
        for _ in range(endpoint.OUTAGE):
            with pytest.raises(Unanswered, match="refused with HTTP 422"):
                judge.complete(ASK, 0)
        with pytest.raises(Stopped, match=r"3 questions in a row \(refused with HTTP 422.*no field seed"):
            judge.complete(ASK, 0)
    assert len(server.asked) == 3


def test_an_outage_stops_the_pass_and_a_reply_in_between_does_not():
    with serving(in_turn(refused(500))) as server, Endpoint(settings(server, attempts=1)) as judge:
        for _ in range(endpoint.OUTAGE):
            with pytest.raises(Unanswered):
                judge.complete(ASK, 0)
        with pytest.raises(Stopped, match="outage"):
            judge.complete(ASK, 0)
    answers = [refused(500), refused(500), said("fine"), *[refused(400)] * 5, refused(500), refused(500)]
    with serving(in_turn(*answers)) as server, Endpoint(settings(server, attempts=1)) as judge:
        for answer in answers:
            if answer.status == 200:
                judge.complete(ASK, 0)
            else:
                with pytest.raises(Unanswered):
                    judge.complete(ASK, 0)
        assert not judge.stopped


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refused(401, f"Incorrect API key provided: {KEY}"), "refused OPENAI_API_KEY"),
        (refused(403), "refused OPENAI_API_KEY"),
        (refused(404, f"no such model, says {KEY}"), "no model 'judge-1'"),
    ],
)
def test_what_the_user_must_mend_is_told_at_once_without_the_key(answer, words):
    with serving(in_turn(answer)) as server, pytest.raises(KickError, match=words) as caught:
        ask(server)
    assert len(server.asked) == 1
    assert KEY not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_used_up_account_stops_and_a_refused_question_does_not():
    spent = refused(429, code="insufficient_quota")
    with serving(in_turn(spent)) as server, pytest.raises(Stopped, match="quota"):
        ask(server)
    with (
        serving(in_turn(refused(400, "content policy"))) as server,
        pytest.raises(Unanswered, match="400"),
    ):
        ask(server)
    assert len(server.asked) == 1


def test_newer_models_name_for_the_limit():
    complaint = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with serving(in_turn(refused(400, complaint), said("fine"))) as server:
        assert ask(server).text == "fine"
    assert server.asked[1].body["max_completion_tokens"] == 20
    assert "max_tokens" not in server.asked[1].body


def test_budget_of_calls_counts_retries():
    answers = in_turn(refused(500), said("one"), said("two"), said("three"))
    with serving(answers) as server, Endpoint(settings(server, calls=3)) as judge:
        assert [judge.complete(ASK, 0).text for _ in range(2)] == ["one", "two"]
        with pytest.raises(Stopped, match="budget of 3 calls"):
            judge.complete(ASK, 0)
    assert len(server.asked) == 3


def test_budget_of_tokens_is_never_overrun():
    with serving(lambda _: said("x", tokens=30)) as server, Endpoint(settings(server, tokens=100)) as judge:
        for _ in range(3):
            judge.complete(ASK, 0)
        with pytest.raises(Stopped, match=r"budget of 100 tokens is used up \(90 used\)"):
            judge.complete(ASK, 0)
    assert len(server.asked) == 3


def test_what_is_reserved_counts_until_it_is_settled():
    budget = Budget(tokens=100)
    assert budget.take(60) == ""
    assert "budget of 100 tokens" in budget.take(60)
    budget.settle(60, 10)
    assert budget.take(60) == ""
    assert (budget.used_calls, budget.used_tokens) == (2, 10)


@pytest.mark.parametrize(
    "usage", [None, "many", {"total_tokens": -5}, {"total_tokens": True}, {"total_tokens": "9"}]
)
def test_usage_that_is_no_count_is_estimated(usage):
    with serving(lambda _: said("x", usage=usage)) as server, Endpoint(settings(server)) as judge:
        assert judge.complete(ASK, 0).tokens == 0
        assert judge.budget.used_tokens >= 20


def test_the_key_is_blotted_out_of_what_the_server_says():
    with serving(lambda _: said(f"your key is {KEY}", model=KEY)) as server:
        reply = ask(server)
    assert reply.text == "your key is [key]"
    assert KEY not in repr(reply)


def test_key_variable(monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "another-key-entirely\n")
    with serving(lambda _: said("fine")) as server:
        ask(server, key_variable="OTHER_KEY")
    assert server.asked[0].headers["authorization"] == "Bearer another-key-entirely"


def test_a_local_endpoint_needs_no_key_and_a_hosted_one_does(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving(lambda _: said("fine")) as server:
        assert ask(server).text == "fine"
    with pytest.raises(KickError, match="set the environment variable OPENAI_API_KEY"):
        Endpoint(Settings("judge-1"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"key_variable": KEY}, "not a valid name of an environment variable"),
        ({"base_url": f"https://host/v1?api_key={KEY}"}, "plain http"),
        ({"base_url": f"https://{KEY}@host/v1"}, "plain http"),
        ({"base_url": f"ftp://{KEY}/"}, "plain http"),
        ({"mode": "both ways"}, "expected: grade, pair or both"),
    ],
)
def test_a_key_in_the_settings_is_refused_and_not_repeated(given, words):
    with pytest.raises(KickError, match=words) as caught:
        Settings("judge-1", **given)
    assert KEY not in str(caught.value)


def test_a_key_that_no_header_takes_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(KickError, match="characters that no key has") as caught:
        Endpoint(Settings("judge-1"))
    assert "sk-" not in str(caught.value)


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(KickError, match=r"pip install 'kick\[judge\]'"):
        Endpoint(Settings("judge-1"))
