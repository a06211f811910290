"""One matrix over all methods and architectures: a new method joins it by being registered."""

import copy
import math
from functools import cache

import pytest
import torch

from kick.compress import check, compress
from kick.compress.context import Calibration
from kick.compress.method import methods
from kick.errors import KickError
from kick.model import block_list, linears
from kick.model.structure import skeleton
from tests.support.architectures import ARCHITECTURES, sequences, tiny
from tests.support.pairs import COSTS, recipe, step

OWN_SHARES = {
    "owl",
    "llm-surgeon",
    "mini-gpts",
}  # methods that choose how much of each matrix goes, see test_owl.py
UNCALLED = {"mixtral", "mamba"}  # experts and dt_proj are used without a call
WIDTHS = {"llama", "qwen3", "opt", "gpt2", "gpt_neox"}
NARROWING = ["transact", "seap", "adapt-pruner", "bonsai", "loraprune"]
ATTENTION = ["flap", "llm-pruner", "liar"]  # of a mixture they prune the attention
REFUSED = {
    "llm.int8": UNCALLED,
    "smoothquant": UNCALLED,
    "eora": UNCALLED,
    "flexigpt": UNCALLED,
    "llm-surgeon": UNCALLED,
    "mini-gpts": UNCALLED,
    **{name: set(ARCHITECTURES) - WIDTHS for name in NARROWING},
    **{name: {"mamba"} for name in ATTENTION},
    **{name: set(ARCHITECTURES) - {"llama", "qwen3"} for name in ("slicegpt", "quarot", "pip-kag")},
    "moe-pruner": set(ARCHITECTURES) - {"mixtral"},
    "ssm-pruning": set(ARCHITECTURES),  # Mamba-2 alone: see test_ssm_pruning.py
    "expert-usage": set(ARCHITECTURES) - {"mixtral"},
}
RANKED = [name for name in methods if methods[name].kind == "prune" and name not in OWN_SHARES]
TRAINING = {name for name in methods if methods[name].trains}  # see tests/recover
RETOKENISING = {name for name in methods if methods[name].retokenises}  # see test_vocab.py
ALONE = TRAINING | RETOKENISING
PAIRS = [(method, name) for method in methods if method not in ALONE for name in ARCHITECTURES]


def masked(name: str) -> bool:
    """Whether a quantizer may follow a pruning step; one that rotates weights may not."""
    return methods[name].kind == "quantize" and not methods[name].rotates


@cache
def compressed(method: str, name: str):
    model = tiny(name)
    calibration = Calibration(tuple(sequences()))
    report = compress(model, recipe(method), calibration)
    return model, calibration, report


@cache
def without_weights(name: str):
    """The model that `kick plan` has: a check changes nothing in it."""
    return skeleton(tiny(name).config)


def served_by(method: str) -> str:
    """An architecture that the method serves: Llama's if it does."""
    return next(name for name in ARCHITECTURES if name not in REFUSED.get(method, ()))


def weights(model) -> dict[str, torch.Tensor]:
    path, modules = block_list(model)
    return {
        f"{path}.{index}.{linear.name}": linear.weight
        for index, block in enumerate(modules)
        for linear in linears(block)
    }


def served(method: str, name: str) -> None:
    if name in REFUSED.get(method, ()):
        pytest.skip("refused: see test_refused_before_anything_is_run")


@pytest.mark.parametrize(("method", "name"), [(m, n) for m in sorted(REFUSED) for n in sorted(REFUSED[m])])
def test_refused_before_anything_is_run(method, name):
    model = tiny(name)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KickError, match="choose"):
        check(model, recipe(method))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_a_plan_can_check_without_weights(method, name):
    """`kick plan` has only the config: no weight may be read."""
    bare = without_weights(name)
    if name in REFUSED.get(method, ()):
        with pytest.raises(KickError, match="choose"):
            check(bare, recipe(method))
    else:
        check(bare, recipe(method))


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_what_was_asked_for(method, name):
    served(method, name)
    assert_asked(method, name)


def assert_asked(method: str, name: str) -> None:
    """The method does to the tiny model what its options say, to the weight."""
    model, calibration, report = compressed(method, name)
    kind = methods[method].kind
    if kind == "prune":
        found = weights(model)
        assert set(calibration.masks) == set(found)
        for key, weight in found.items():
            if method not in OWN_SHARES:
                assert int((~calibration.masks[key]).sum()) == weight.numel() // 2, key
            assert torch.equal(weight == 0, ~calibration.masks[key]), key
        pruned = sum(int((~mask).sum()) for mask in calibration.masks.values())
        assert report["footprint"]["linear_zeros"] == pruned
        assert report["steps"][-1]["sparsity"] == pruned / report["footprint"]["linear_parameters"]
        assert method in OWN_SHARES or report["steps"][-1]["sparsity"] == 0.5
    elif kind == "quantize":
        rounds = any(stored.activation_bits for stored in calibration.formats.values())
        assert methods[method].activations == rounds
        for key, weight in weights(model).items():
            stored = calibration.formats[key]
            assert stored.bits >= (8 if "8" in method else 4)
            if stored.grid:
                codes = stored.grid.quantize(weight, stored.scale)
                assert torch.equal(stored.grid.dequantize(codes, stored.scale), weight), key
        assert report["footprint"]["bits_per_weight"] < 16
    elif kind == "structure":
        dense = sum(p.numel() for p in tiny(name).parameters())
        assert sum(p.numel() for p in model.parameters()) < dense
    else:
        assert report["footprint"]["packed_bytes"] > 0


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_nothing_else_changes(method, name):
    served(method, name)
    model, _, _ = compressed(method, name)
    dense = tiny(name)
    before = dict(dense.named_parameters())
    path = block_list(model)[0]
    for key, parameter in model.named_parameters():
        outside = not key.startswith(f"{path}.")
        if outside and methods[method].kind != "structure":
            assert torch.equal(parameter, before[key]), key
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    tied = dense.get_output_embeddings().weight.data_ptr() == dense.get_input_embeddings().weight.data_ptr()
    assert (head.weight.data_ptr() == table.weight.data_ptr()) == tied
    if methods[method].kind != "structure":
        shapes = {key: value.shape for key, value in dense.state_dict().items()}
        assert all(model.state_dict()[key].shape == shape for key, shape in shapes.items())
    for module in model.modules():
        assert not module.training


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_it_still_runs_and_the_same_seed_gives_the_same_bytes(method, name):
    served(method, name)
    model, _, report = compressed(method, name)
    ids = sequences(1, 16, seed=5)[0]
    with torch.no_grad():
        logits = model(ids).logits
        answer = model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert torch.isfinite(logits).all()
    assert answer.shape == (1, 19)
    again = tiny(name)
    torch.manual_seed(123)  # the state of the global generator has no say
    second = compress(again, recipe(method), sequences())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    for one, other in zip(report["steps"], second["steps"], strict=True):
        assert one.keys() == other.keys()
        assert all(one[key] == other[key] for key in one.keys() - COSTS)


@pytest.mark.parametrize("method", RANKED)
@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_pattern_in_every_group(method, pattern):
    model = tiny(served_by(method))
    compress(model, [step(method, sparsity=pattern)], sequences())
    n, m = map(int, pattern.split(":"))
    for key, weight in weights(model).items():
        assert ((weight.reshape(-1, m) == 0).sum(1) == n).all(), key


@pytest.mark.parametrize("method", RANKED)
@pytest.mark.parametrize("share", [0.0, 0.29, 0.7])
def test_share_to_the_weight(method, share):
    """floor(share x size) of each comparison group: a row, a matrix, or 128 columns of a matrix."""
    model = tiny(served_by(method))
    compress(model, [step(method, sparsity=share)], sequences())
    for key, weight in weights(model).items():
        rows, columns = weight.shape
        by_row = rows * math.floor(round(share * columns, 9))
        whole = math.floor(round(share * rows * columns, 9))
        assert int((weight == 0).sum()) == (
            whole if method in ("magnitude", "admm", "sparsegpt", "d-pruner") else by_row
        ), key


@pytest.mark.parametrize("quantizer", [name for name in methods if masked(name)])
@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
def test_masks_are_kept_through_quantization(pruner, quantizer):
    model = tiny("llama")
    calibration = Calibration(tuple(sequences()))
    report = compress(model, [step(pruner), step(quantizer)], calibration)
    for key, weight in weights(model).items():
        assert (weight[~calibration.masks[key]] == 0).all(), key
    assert [item["sparsity"] for item in report["steps"]] == [0.5, 0.5]
    assert report["footprint"]["bits_per_weight"] < 9


def test_prune_quantize_compensate():
    model, without = tiny("llama"), tiny("llama")
    dense = tiny("llama")
    steps = [step("wanda"), step("gptq", bits=3)]
    compress(without, steps, sequences())
    report = compress(model, [*steps, step("eora", rank=8)], sequences())
    ids = sequences(2, 24, seed=7)

    def error(other):
        with torch.no_grad():
            return sum(float((other(x).logits - dense(x).logits).square().mean()) for x in ids)

    assert error(model) < error(without)
    alone = compress(tiny("llama"), steps, sequences())
    sides = sum(8 * (w.shape[0] + w.shape[1]) for w in weights(dense).values())
    assert report["footprint"]["parameters"] - alone["footprint"]["parameters"] == sides
    assert report["footprint"]["packed_bytes"] - alone["footprint"]["packed_bytes"] == 2 * sides


@pytest.mark.parametrize(
    ("steps", "word"),
    [
        (["wanda", "last-n"], "must come before wanda"),
        (["eora"], "after another method"),
        (["rtn", "eora", "wanda"], "put it before"),
        (["flap", "eora"], "not after structured"),
    ],
)
def test_orders_that_make_no_sense(steps, word):
    with pytest.raises(KickError, match=word):
        compress(tiny("llama"), [step(name) for name in steps], sequences())


def test_no_calibration_is_refused():
    with pytest.raises(KickError, match="wanda needs calibration"):
        compress(tiny("llama"), [step("rtn"), step("wanda")], [])
