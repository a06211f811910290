"""The learning rate that held-out text chooses: by trials that leave nothing behind."""

import pytest
import torch

from kick.compress import compress
from kick.errors import CellFailed
from kick.recover.rates import around, best, trials_of
from kick.recover.train import TrainingSchedule
from tests.recover.test_forms import calibrated, prepared, weights
from tests.support.architectures import tiny


@pytest.mark.parametrize("form", ["recover-masklora", "recover-last3"])
def test_training_at_the_chosen_rate_is_as_if_nothing_had_been_tried(form, tmp_path):
    model, dense = tiny("llama"), tiny("llama")
    blocks = {"blocks": 1} if form == "recover-last3" else {}
    recipe = prepared(form, search=3, trial=48, **blocks)
    done = compress(model, recipe, calibrated(work=tmp_path))["steps"][1]["training"]
    assert [one["lr"] for one in done["rates"]] == [0.00316, 0.01, 0.0316]
    assert done["lr"] == min(done["rates"], key=lambda one: one["heldout"])["lr"]
    options = {**recipe[1].options, "search": 1, "lr": done["lr"]}
    del options["trial"]
    alone = prepared(form, **options)[1]
    plain = compress(dense, [recipe[0], alone], calibrated())["steps"][1]["training"]
    assert "rates" not in plain
    assert plain["heldout_after"] == done["heldout_after"]
    assert all(torch.equal(one, weights(dense)[name]) for name, one in weights(model).items())


def test_rates_that_diverge_are_told_and_not_chosen():
    trials = [{"lr": 1.0, "heldout": None}, {"lr": 0.1, "heldout": 3.0}, {"lr": 0.03, "heldout": 3.5}]
    assert best(trials) == 0.1
    with pytest.raises(CellFailed, match=r"diverged with each learning rate that was tried \(1\)"):
        best(trials[:1])


def test_trials_are_shorter_than_the_training_and_around_its_rate():
    made = trials_of(TrainingSchedule(steps=100, batch=2, lr=1e-3), 3, tokens=8_000, length=256)
    assert [one.lr for one in made] == [0.000316, 0.001, 0.00316]
    assert {one.steps for one in made} == {15}
    assert around(0.5, 1) == [0.5]
    assert trials_of(TrainingSchedule(4, 1, 1e-3), 2, 8_000, 256)[0].steps == 4
