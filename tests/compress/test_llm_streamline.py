"""LLM-Streamline: the authors' windows, the least squares map of the vectors, and what it may never do."""

import pytest
import torch
from torch import nn

from kick.compress import canonical, check_saved, compress
from kick.compress.context import Calibration
from kick.compress.methods.llm_streamline import RunMoments, states_around, window_cosines
from kick.errors import CellFailed, KickError
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


class Given(nn.Module):
    """A block that gives the states stored for the sample that it is called with."""

    def __init__(self, states):
        super().__init__()
        self.states = states

    def forward(self, hidden):
        return self.states[int(self.sample)][None]


class Replay(nn.Module):
    """A model whose states are those of the vectors, for the five samples that were looked at."""

    def __init__(self, vectors, samples):
        super().__init__()
        states = [vectors[f"hidden.{i}"] for i in range(6)] + [vectors["hidden.last_before_norm"]]
        self.first = states[0]
        self.layers = nn.ModuleList(Given(one) for one in states[1:])
        self.anchor = nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {"num_hidden_layers": 6})()
        self.samples = samples

    def forward(self, ids, **_):
        sample = int(ids[0, 0])
        hidden = self.first[sample][None]
        for block in self.layers:
            block.sample = sample
            hidden = block(hidden)
        return hidden


def replay(vectors, samples):
    ids = [torch.full((1, 9), int(sample)) for sample in samples]
    return Replay(vectors, samples), Calibration(tuple(ids))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_windows_are_the_authors_before_the_norm(layers):
    vectors = seeds("llm_streamline")
    model, calibration = replay(vectors, vectors[f"n{layers}.samples"])
    found = window_cosines(model, calibration, layers)
    torch.testing.assert_close(found, vectors[f"n{layers}.cosine_before_norm"], rtol=1e-5, atol=1e-6)
    assert int(found.argmax()) == int(vectors[f"n{layers}.first_layer_before_norm"])
    published = vectors[f"n{layers}.published_similarity"]
    torch.testing.assert_close((1 + found[:-1]) / 2, published[:-1], rtol=1e-5, atol=1e-6)


def test_the_map_is_the_least_squares_one():
    vectors = seeds("llm_streamline")
    first = int(vectors["replacement.first_layer"])
    model, calibration = replay(vectors, range(6))
    moments = states_around(model, calibration, first, first + 1)
    matrix, constant = moments.fit(0.0)
    torch.testing.assert_close(matrix, vectors["replacement.matrix"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(constant, vectors["replacement.bias"], rtol=1e-5, atol=1e-5)
    assert moments.error(matrix, constant) == pytest.approx(
        float(vectors["replacement.relative_error"]), rel=1e-5
    )
    assert moments.error() == pytest.approx(float(vectors["drop.relative_error"]), rel=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0, 100.0])
def test_the_map_is_never_worse_than_dropping_on_calibration_tokens(damping):
    draw = torch.Generator().manual_seed(0)
    moments = RunMoments(8, torch.device("cpu"))
    x = torch.randn(40, 8, generator=draw)
    moments.add(x, x + 0.1 * torch.randn(40, 8, generator=draw))
    assert moments.error(*moments.fit(damping)) <= moments.error()


def streamlined(name="llama", **options):
    model, calibration = tiny(name), Calibration(tuple(sequences()))
    report = compress(model, [canonical("llm-streamline", {"layers": 1, **options})], calibration)
    return model, calibration, report


def test_a_run_that_is_linear_is_replaced_exactly():
    """A block that writes nothing but a constant is x + c."""
    model = tiny("opt")
    last = blocks(model)[1]
    for linear in (last.self_attn.out_proj, last.fc2):
        linear.weight.zero_()
    ids = sequences(1, 16, seed=9)[0]
    with torch.no_grad():
        dense = model(ids).logits
        compress(model, [canonical("llm-streamline", {"layers": 1, "damping": 0.0})], sequences())
        torch.testing.assert_close(model(ids).logits, dense, rtol=1e-4, atol=1e-4)
    assert len(blocks(model)) == 2


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_what_is_kept_is_counted(name):
    model, calibration, report = streamlined(name)
    bare, _, plain = streamlined(name, replacement="none")
    hidden = model.config.hidden_size
    assert len(blocks(model)) == len(blocks(bare)) == 2
    grown = report["footprint"]["parameters"] - plain["footprint"]["parameters"]
    shape = {note["kind"]: note for note in calibration.notes}
    assert shape["linear replacement"]["error"] < shape["linear replacement"]["error_dropped"]
    if shape["dropped layers"]["layers"] != [0]:
        assert grown == hidden * (hidden + 1) == shape["linear replacement"]["parameters"]


def test_the_map_is_compressed_with_the_block_that_has_it():
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    steps = [canonical("llm-streamline", {"layers": 1}), canonical("wanda", {"sparsity": 0.5})]
    compress(model, steps, calibration)
    assert [name for name in calibration.masks if name.endswith("replacement.map")]


def test_a_map_cannot_be_saved_and_dropped_blocks_can():
    with pytest.raises(KickError, match=r"it has no model\.layers.0.replacement"):
        check_saved(tiny("llama"), [canonical("llm-streamline", {"layers": 1})])
    check_saved(tiny("llama"), [canonical("llm-streamline", {"layers": 1, "replacement": "none"})])


def test_too_few_tokens_for_the_fit_are_named():
    step = canonical("llm-streamline", {"layers": 1})
    with pytest.raises(CellFailed, match="33 unknowns per output on 24 tokens"):
        compress(tiny("llama"), [step], sequences(1))


def test_states_that_do_not_determine_a_map_are_refused():
    moments = RunMoments(4, torch.device("cpu"))
    moments.add(torch.zeros(3, 4), torch.ones(3, 4))
    with pytest.raises(CellFailed, match="do not determine a linear map; use a larger damping"):
        moments.fit(0.01)
