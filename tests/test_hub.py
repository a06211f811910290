"""A machine without a network: found out and told at once, and what is missing is refused."""

import socket
import threading

import pytest

from kick import hub, paths
from kick.errors import KickError
from kick.matrix import needs
from kick.matrix.load import load, parse
from tests.support.local_mirror import mirror

HEAD = "name: m\nmodel: smoke\nvariants: [dense]\ntasks: "


@pytest.fixture
def network(monkeypatch):
    """No variable of the surroundings; gives the list of calls to `paths.offline`."""
    for name in (
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    told = []
    monkeypatch.setattr(paths, "offline", lambda: told.append("offline"))
    hub._answers.cache_clear()
    yield told
    hub._answers.cache_clear()


@pytest.fixture
def away(monkeypatch, tmp_path):
    """No mirror, no files of the hub, and the hub is not to be asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("KICK_DATA_ROOT", raising=False)
    return tmp_path


def test_a_hub_that_answers_is_asked(network, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.online()
    assert network == []


def test_a_hub_that_does_not_answer_is_asked_no_more_and_that_is_said(network, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert not hub.online()
    assert network == ["offline"]
    assert "127.0.0.1 does not answer" in capsys.readouterr().err


def test_a_name_server_that_says_nothing_is_not_waited_for(network, monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", 0.05)

    given_up, answered = threading.Event(), []

    def silent(*_, **__):
        answered.append(given_up.wait(60))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    assert not hub.online()
    assert answered == [], "it is asked still"
    given_up.set()


def test_a_proxy_stands_for_the_hub(network, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert hub._place() == ("proxy.example", 3128)


def test_a_preset_without_its_data_names_all_that_is_missing(away):
    with pytest.raises(KickError) as caught:
        needs.check(load("llm-kick"))
    lines = str(caught.value).split("\n")
    assert "'lmsys/vicuna-7b-v1.3' is not on this machine" in lines[0]
    assert "llm_kick needs the data sets google-research-datasets/nq_open" in lines[1]
    assert "cais/mmlu" in lines[1]
    assert "KICK_DATA_ROOT" in lines[1]


def test_what_is_in_the_mirror_or_kept_of_the_hub_is_not_missing(away):
    matrix = parse(HEAD + "[kick_factoid_qa_nq, kick_mcr_qa, kick_mini_mcq]\n", "m.yaml")
    root = mirror(away, "nq_open/validation.jsonl", [{"question": "a", "answer": ["b"]}])
    with pytest.raises(KickError, match=r"^m\.yaml:4: tasks\[1\]: kick_mcr_qa needs the data set cais/mmlu"):
        needs.check(matrix, (), root)
    (away / "hf" / "hub" / "datasets--cais--mmlu").mkdir(parents=True)
    needs.check(matrix, (), root)


def test_a_users_own_task_of_a_hub_data_set(away):
    (away / "t.yaml").write_text("task: mine\ndataset_path: someone/set\noutput_type: generate_until\n")
    with pytest.raises(KickError, match="mine needs the data set someone/set"):
        needs.check(parse(HEAD + "[mine]\n", "m.yaml"), [away])


def test_models_that_are_here_or_have_other_names_are_not_looked_for(away):
    for name in ("smoke", "smokes", "/a/folder", "./x/y", "x/y.gguf"):
        needs.check(parse(HEAD.replace("smoke", name) + "[kick_mini_mcq]\n", "m.yaml"))
    (away / "hf" / "hub" / "models--someone--model").mkdir(parents=True)
    needs.check(parse(HEAD.replace("smoke", "Someone/Model") + "[kick_mini_mcq]\n", "m.yaml"))
