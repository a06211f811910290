"""The judge's protocol against a real server: transformers' own, on this machine, with the model `smoke`.

Its verdicts are noise, so what is tested is everything else: that such a server takes the requests as they
are, that its replies are read and kept, that failures of form are counted, and that nothing else changes.
"""

import time
from dataclasses import replace

import pytest

from kick.judge.endpoint import Endpoint, Settings, Unanswered
from kick.judge.results import judge_results
from kick.model.source import locate
from tests.support.judged_results import SUMMARY, TURNS, fill

pytest.importorskip("openai")
pytest.importorskip(
    "fastapi", reason="transformers' server needs fastapi and uvicorn: pip install 'kick[dev]'"
)
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server's settings; it ends with the module."""
    import torch
    from transformers.cli.serve import Serve

    folder = str(locate("smoke"))
    with torch.random.fork_rng(devices=[]):
        running = Serve(force_model=folder, host="127.0.0.1", port=0, device="cpu", non_blocking=True)
        try:
            yield Settings(folder, _address(running.server), max_tokens=12, timeout=60.0, workers=2)
        finally:
            running.kill_server()


def _address(server) -> str:
    """Where it listens, once it does."""
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "transformers' server did not start"
        time.sleep(0.05)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"


def test_a_real_server_takes_the_requests_and_its_replies_are_kept(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-4f1d0c9b8a7e6d5c")
    stored = fill(tmp_path, (SUMMARY, TURNS))
    report = judge_results(stored.store, server, data_root=stored.mirror)
    assert report.whole
    assert not report.stopped
    assert report.calls == 2 * 14  # noise holds no verdict, so each question has its one repair
    assert report.tokens > 14 * 300
    assert all(cell.failures == {"unparsed": cell.asked} for cell in report.cells)
    assert stored.columns(TURNS)["judge_failure"] == [1.0] * 3
    kept = stored.store.result(stored.key(TURNS)).provenance["judge"]
    assert kept["answered_as"] == [f"{server.model}@main"]
    before = stored.files()
    again = judge_results(stored.store, server, data_root=stored.mirror)
    assert (again.calls, stored.files()) == (0, before)


def test_the_same_question_has_the_same_reply_at_temperature_0(server):
    ask = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Well?"}]
    with Endpoint(server) as endpoint:
        first, second = endpoint.complete(ask, 1), endpoint.complete(ask, 1)
    assert first.text == second.text
    assert first.tokens > 12
    assert first.finish in ("stop", "length")


def test_a_model_that_the_server_does_not_have_is_told(server):
    other = replace(server, model="someone/else")
    with Endpoint(other) as endpoint, pytest.raises(Unanswered, match="refused with HTTP 400"):
        endpoint.complete([{"role": "user", "content": "?"}], 0)
