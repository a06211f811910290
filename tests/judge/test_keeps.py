"""What a judge's pass keeps and what it never keeps: stops and resumes, several writers, the key nowhere."""

import base64
import logging
import multiprocessing
import os
import re
import threading
import time
import traceback
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import pytest

from kick.errors import KickError
from kick.judge.endpoint import Settings
from kick.judge.judge import Judge
from kick.judge.rubrics import Question, Turn
from kick.store.files import open_files
from tests.support.judge_server import Answer, honest, refused, said, serving, verdict
from tests.support.judged_results import SUMMARY, TURNS, fill

KEY = "sk-test-4f1d0c9b8a7e6d5c"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def questions(count):
    return [Question("general", ((Turn("Say a number.", f"number {i}"),),)) for i in range(count)]


# ------------------------------------------------------------------------------------------ stopping


def test_a_budget_stops_cleanly_and_the_next_pass_goes_on(tmp_path):
    stored = fill(tmp_path)
    untouched = stored.files()
    with serving(honest) as server:
        first = stored.judge(server, calls=5, workers=1)
        assert first.stopped == "the budget of 5 calls is used up"
        assert first.calls == len(server.asked) == 5
        assert "open: not written yet" in "".join(first.lines())
        assert not first.whole
        assert "the same command continues from here" in first.lines()[-1]
        halfway = stored.files()
        written = [cell.key for cell in first.cells if cell.written]
        changed = {name for name in halfway if halfway[name] != untouched[name]}
        assert {name.split("/")[1] for name in changed} == set(written)
        assert all(not cell.written for cell in first.cells if cell.pending)
        stored.judge(server, calls=5, workers=1)
        last = stored.judge(server)
    assert last.whole
    assert not last.stopped
    assert len(server.asked) == 14  # not one question twice
    assert stored.columns(TURNS)["judge"] == [6.0, 4.0, 4.0]


def test_a_budget_of_nothing_uses_what_is_kept(tmp_path):
    stored = fill(tmp_path, (TURNS,))
    with serving(honest) as server:
        stored.judge(server)
        assert stored.judge(server, calls=0).whole
        assert stored.judge(server, calls=0, seed=1).stopped


def test_a_budget_of_tokens_stops_too(tmp_path):
    stored = fill(tmp_path, (TURNS,))
    with serving(honest) as server:
        report = stored.judge(server, tokens=2000)
    assert "budget of 2000 tokens" in report.stopped
    assert 0 < report.tokens == 100 * len(server.asked) <= 2000


def test_an_outage_loses_nothing_and_writes_nothing(tmp_path):
    stored = fill(tmp_path)
    before = stored.files()
    with serving(lambda _: refused(503)) as server:
        report = stored.judge(server)
        assert stored.files() == before
        assert report.stopped.startswith(f"outage: {server.url} gave no reply to 3 questions in a row")
        assert [cell.written for cell in report.cells] == [False] * 4
        assert sum(cell.pending for cell in report.cells) == 16
        assert len(server.asked) <= 4 * 2 * 2  # the workers' questions, two attempts each
        server.behave = honest
        assert stored.judge(server).whole
    assert stored.columns(TURNS)["judge"] == [6.0, 4.0, 4.0]


def test_an_endpoint_that_fails_halfway_keeps_the_first_half(tmp_path):
    stored = fill(tmp_path, (TURNS,))
    with serving(lambda asked: honest(asked) if asked.number < 6 else refused(500)) as server:
        assert stored.judge(server, workers=1).stopped.startswith("outage")
        asked = len(server.asked)
        server.behave = honest
        stored.judge(server, workers=1)
    assert len(server.asked) - asked == 11 - 6
    assert stored.columns(TURNS)["judge"] == [6.0, 4.0, 4.0]


def test_a_wrong_key_ends_the_pass_and_leaves_the_store(tmp_path):
    stored = fill(tmp_path, (TURNS,))
    before = stored.files()
    with serving(lambda _: refused(401)) as server, pytest.raises(KickError, match="refused OPENAI_API_KEY"):
        stored.judge(server)
    assert stored.files() == before
    assert len(server.asked) < 2 * 4  # workers: those in flight, and what they took up before they heard


def test_interrupted_it_stops_asking_and_goes_on_later(tmp_path):
    with serving(honest) as server:
        settings = Settings("judge-1", server.url, workers=2)
        done = []

        def interrupt():
            done.append(1)
            if len(done) == 3:
                raise KeyboardInterrupt

        with Judge(settings, open_files(tmp_path)) as judge, pytest.raises(KeyboardInterrupt):
            judge.verdicts(questions(50), interrupt)
        asked = len(server.asked)
        assert asked < 10
        with Judge(settings, open_files(tmp_path)) as judge:
            assert len(judge.verdicts(questions(50))) == 50
        assert len(server.asked) == 50


# ------------------------------------------------------------------------------------------ many at once


def test_no_more_requests_at_once_than_workers_and_the_order_is_kept(tmp_path):
    def behave(asked):
        time.sleep(0.02)
        return said(verdict(asked, int(asked.judged().split()[1]) % 10 + 1))

    with (
        serving(behave) as server,
        Judge(Settings("j", server.url, workers=3), open_files(tmp_path)) as judge,
    ):
        found = judge.verdicts(questions(24))
    assert server.most_at_once == 3
    assert [verdict.values["grade"] for verdict in found] == [i % 10 + 1 for i in range(24)]


def test_all_workers_wait_where_the_server_asks_to(tmp_path):
    refusals = threading.Semaphore(1)

    def behave(asked):
        if refusals.acquire(blocking=False):
            return refused(429, headers={"Retry-After": "0.5"})
        time.sleep(0.01)
        return honest(asked)

    settings = {"workers": 3, "backoff": 0.01}
    with (
        serving(behave) as server,
        Judge(Settings("j", server.url, **settings), open_files(tmp_path)) as judge,
    ):
        assert all(found.values for found in judge.verdicts(questions(30)))
    times = sorted(asked.time for asked in server.asked)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 0.4
    assert sum(time - times[0] < 0.4 for time in times) <= 6


def _pass(url, folder, count, out):
    os.environ["OPENAI_API_KEY"] = KEY
    with Judge(Settings("j", url, workers=4), open_files(folder)) as judge:
        out.put([found.values["grade"] for found in judge.verdicts(questions(count))])


def test_replies_are_kept_behind_a_url_too():
    with serving(honest) as server:
        for _ in range(2):
            with Judge(Settings("j", server.url), open_files("memory://judged/.judge")) as judge:
                assert [found.values for found in judge.verdicts(questions(3))] == [{"grade": 4.0}] * 3
    assert len(server.asked) == 3


def test_several_processes_write_one_reply_each_and_all_go_by_it(tmp_path):
    """The server never grades the same way twice, so that whoever kept its own reply would be seen."""

    def behave(asked):
        return said(verdict(asked, asked.number % 10 + 1))

    context = multiprocessing.get_context("fork")
    out = context.Queue()
    with serving(behave) as server:
        workers = [context.Process(target=_pass, args=(server.url, tmp_path, 20, out)) for _ in range(2)]
        for worker in workers:
            worker.start()
        found = [out.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
    assert found[0] == found[1]
    assert len(list(tmp_path.rglob("*.json"))) == 20
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"code": 1, "text": 2, "tokens": 3, "model": 4}', b"\xff"]
)
def test_a_damaged_reply_is_asked_for_again_and_replaced(damage, tmp_path):
    with serving(honest) as server:
        for _ in range(3):
            with Judge(Settings("j", server.url), open_files(tmp_path)) as judge:
                assert judge.verdicts(questions(1))[0].values == {"grade": 4.0}
            (path,) = tmp_path.rglob("*.json")
            if len(server.asked) == 1:
                path.write_bytes(damage)
    assert len(server.asked) == 2


# ------------------------------------------------------------------------------------------ the key

TELLTALE = (KEY, KEY[8:], base64.b64encode(KEY.encode()).decode())


def told(text):
    return [one for one in TELLTALE if one in text]


def echo(asked):
    """A server that repeats whatever it was sent, the key first of all, in every way it can."""
    secret = asked.headers["authorization"]
    makers = (
        lambda: said(f"{secret} {verdict(asked)}", model=secret),
        lambda: said(f"{secret}: no verdict"),
        lambda: refused(400, f"bad request with {secret}"),
        lambda: refused(500, f"crashed on {secret}", headers={"X-Echo": secret}),
        lambda: Answer(f"<html>{secret}</html>".encode(), headers={"Retry-After": secret}),
        lambda: Answer(f'{{"{secret}": 1'.encode()),
    )
    return makers[asked.number % len(makers)]()


def test_defect_14_the_key_is_in_no_file_log_output_or_representation(tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "kick"):
        caplog.set_level(logging.DEBUG, name)
    stored = fill(tmp_path, (SUMMARY, TURNS))
    with serving(echo) as server:
        report = stored.judge(server, mode="both", attempts=2)
        shown = [repr(report), *report.lines()]
        settings = Settings("judge-1", server.url, backoff=0.01)
        with Judge(settings, open_files(tmp_path / "k")) as judge:
            shown += [repr(judge), str(vars(judge)), str(vars(judge.endpoint)), repr(settings)]
            shown += [repr(found) for found in judge.verdicts(questions(12))]
        assert any("[key]" in path.read_text() for path in tmp_path.rglob("*.json") if ".judge" in path.parts)
    shown += [record.getMessage() for record in caplog.records] + [str(vars(r)) for r in caplog.records]
    output = capfd.readouterr()
    for text in [*shown, output.out, output.err]:
        assert not told(text)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        data = path.read_bytes()
        assert not told(data.decode("latin-1")), path


@pytest.mark.parametrize("status", [401, 403, 404, 400, 429, 500])
def test_the_key_is_in_no_exception(status, tmp_path):
    with serving(lambda asked: refused(status, f"got {asked.headers['authorization']}")) as server:
        settings = Settings("judge-1", server.url, attempts=1, backoff=0.01)
        with Judge(settings, open_files(tmp_path)) as judge:
            found = []
            with _kept(found) if status in (401, 403, 404) else nullcontext():
                found.append(repr(judge.verdicts(questions(4))))
    assert found
    assert not told("".join(found))


@contextmanager
def _kept(found):
    """What an exception tells with everything that hangs on it, the values of variables included."""
    with pytest.raises(KickError) as caught:
        yield
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    found.append("".join(lines) + repr(error))


def test_no_key_stands_in_the_sources():
    root = Path(__file__).parents[2]
    for path in [*root.glob("kick/**/*.py"), *root.glob("kick/**/*.yaml"), *root.glob("tasks/**/*.yaml")]:
        assert not re.search(r"\bsk-[A-Za-z0-9]{8}", path.read_text("utf-8")), path
