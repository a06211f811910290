"""LLM-Streamline's trained replacement: which blocks go, and towards what one is trained."""

import pytest
import torch
from torch import nn

from kick.catalog import trains_on_text
from kick.compress import canonical, check_saved, compress
from kick.compress.method import methods
from kick.errors import KickError
from kick.model import blocks
from kick.recover import train as training
from tests.recover.test_forms import calibrated
from tests.support.architectures import sequences, tiny

OPTIONS = {"layers": 1, "tokens": 96, "length": 16, "lr": 1e-3}


def replaced(name="llama", folder=None, **options):
    model, calibration = tiny(name), calibrated(work=folder)
    step = canonical("llm-streamline-trained", OPTIONS | options)
    report = compress(model, [step], calibration)
    return model, {note["kind"]: note for note in calibration.notes}, report["steps"][0]


def states(name):
    """What each block of the dense model is given, and what the last one gives, on the calibration text."""
    model, found = tiny(name), []
    for block in blocks(model):
        block.register_forward_pre_hook(lambda _block, args: found.append(args[0]))
    last = blocks(model)[-1]
    last.register_forward_hook(lambda _b, _a, out: found.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        for ids in sequences():
            model(ids)
    return [torch.cat(found[place::4], dim=1)[0] for place in range(4)]


def test_the_run_is_the_most_similar_one_and_its_first_block_stays():
    model, notes, step = replaced()
    seen, dense = states("llama"), tiny("llama")
    cosines = [float(nn.functional.cosine_similarity(seen[i], seen[i + 2], dim=-1).mean()) for i in (0, 1)]
    assert notes["cosine of each run of blocks"]["values"] == pytest.approx(cosines, abs=2e-6)
    first = cosines.index(max(cosines))
    assert notes["dropped layers"]["layers"] == [first + 1]
    assert notes["trained replacement"]["block"] == first
    kept = [block for place, block in enumerate(blocks(dense)) if place != first + 1]
    for place, (ours, theirs) in enumerate(zip(blocks(model), kept, strict=True)):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs) == (place != first)
    head, table = model.lm_head.weight, model.model.embed_tokens.weight
    assert head is table
    assert torch.equal(table, dense.model.embed_tokens.weight)
    assert step["training"]["trained"] == sum(one.numel() for one in kept[first].parameters())
    assert not any(one.requires_grad for one in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gemma2"])  # the run's blocks attend alike, or each in its way
def test_it_is_trained_towards_the_dense_states(name):
    """The first loss, worked out from the dense model's hidden states alone."""
    _, notes, step = replaced(name, tokens=16)
    first = notes["trained replacement"]["block"]
    (ids,), _ = calibrated().texts(methods["llm-streamline-trained"].cls(**OPTIONS | {"tokens": 16}).text())
    with torch.no_grad():
        given = tiny(name)(ids, output_hidden_states=True).hidden_states
        ends = list[torch.Tensor]()
        blocks(model := tiny(name))[first + 1].register_forward_hook(
            lambda _b, _a, out: ends.append(out[0] if isinstance(out, tuple) else out)
        )
        model(ids)
    expected = float((given[first + 1] - ends[0]).square().mean())
    assert step["training"]["loss_first"] == pytest.approx(expected, rel=1e-5)


def test_what_can_be_learnt_is_learnt():
    model, notes, step = replaced("opt", tokens=960, lr=1e-2)
    errors = notes["trained replacement"]
    assert errors["error"] < 0.2 * errors["error_untrained"]  # on windows that were held out
    assert (step["kind"], step["removed"]["share"]) == ("structure", pytest.approx(1 / 3))
    assert len(blocks(model)) == model.config.num_hidden_layers == 2


def test_a_killed_run_goes_on_with_equal_weights(tmp_path, monkeypatch):
    whole = replaced()[0].state_dict()
    monkeypatch.setattr(training, "EVERY", 0.0)
    real, left = training._backward, [4]

    def killed(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setattr(training, "_backward", killed)
    with pytest.raises(KeyboardInterrupt):
        replaced(folder=tmp_path)
    monkeypatch.setattr(training, "_backward", real)
    model, _, step = replaced(folder=tmp_path)
    assert step["training"]["resumed_at"] == 4
    assert all(torch.equal(model.state_dict()[name], one) for name, one in whole.items())


def test_it_is_a_checkpoint_trains_and_has_a_key_of_its_own():
    step = canonical("llm-streamline-trained", OPTIONS)
    check_saved(tiny("llama"), [step])
    assert trains_on_text(step)
    assert not trains_on_text(canonical("llm-streamline", {"layers": 1}))
    with pytest.raises(KickError, match="cannot drop 3 of 3 layers"):
        replaced(layers=3)
