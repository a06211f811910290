"""The search for a saliency: breeding, fitness and log against what plain loops say; pages; errors."""

import copy
import json
import math
import random

import pytest
import torch
from typer.testing import CliRunner

from kick import model
from kick.cli import app
from kick.compress import canonical, compress
from kick.compress.formula import BINARY, OPERANDS, UNARY, Formula, parse
from kick.compress.methods.pruner_zero import PUBLISHED
from kick.compress.sparsity import Sparsity
from kick.errors import KickError
from kick.model import blocks, linears
from kick.records import CalibrationSpec
from kick.study import fitness as measuring
from kick.study import genetics, search, search_pages
from kick.study.fitness import Fitness
from kick.study.genetics import Breeding, evolve, ranking, simplified
from tests.support.architectures import sequences, tiny

# ------------------------------------------------------------------------------ breeding


def values():
    generator = torch.Generator().manual_seed(5)
    weight, gradient = (torch.rand(6, 8, generator=generator) + 0.1 for _ in range(2))
    return {"W": weight, "G": gradient, "X": torch.rand(1, 8, generator=generator) + 0.1}


def length(formula):
    """Operations in one another."""
    return 1 + max(map(length, formula.parts)) if formula.parts else 0


def test_random_formulas_are_of_the_papers_space():
    rng = random.Random(0)
    grown, full = ([genetics.random_formula(rng, grow) for _ in range(300)] for grow in (True, False))
    assert {one.name for made in grown for one in made.below()} == {*OPERANDS, *UNARY, *BINARY}
    assert {length(one) for one in grown} == {2, 3, 4}
    assert {length(one) for one in full} == {4}
    assert all(parse(str(one)) == one for one in grown + full if one.size <= 64 and one.operands != {"X"})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("neg(neg(mul(W, X)))", "mul(W, X)"),
        ("skp(pow(sub(W, G)))", "sqr(sub(W, G))"),
        ("sqrt(sqr(sub(W, G)))", "abs(sub(W, G))"),
        ("abs(mul(W, W))", "abs(mul(W, W))"),
        ("abs(sqr(neg(W)))", "sqr(neg(W))"),
        ("mms(zsn(G))", "mms(G)"),
        ("add(sub(W, G), G)", "W"),
        ("sub(add(X, W), X)", "W"),
        ("mul(X, W)", "mul(W, X)"),
    ],
)
def test_what_cancels_is_not_kept_and_gives_the_same_numbers(text, wanted):
    formula = parse(text)
    assert str(simplified(formula)) == wanted
    torch.testing.assert_close(simplified(formula)(values()), formula(values()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["log(exp(sub(W, G)))", "exp(log(mul(W, X)))"])
def test_opposing_operations_leave_the_order_in_a_row(text):
    formula = parse(text)
    made = simplified(formula)
    assert made.size < formula.size
    assert torch.equal(made(values()).argsort(dim=1), formula(values()).argsort(dim=1))


@pytest.mark.parametrize(
    "text",
    [
        *("mms(mul(W, X))", "div(mul(W, X), G)", "zsn(skp(mul(W, X)))", "exp(mul(W, X))"),
        *("sqrt(tanh(mul(W, X)))", "log(sqr(mul(W, X)))", "pow(abs(mul(W, X)))"),
    ],
)
def test_what_scales_the_whole_ranks_as_what_it_scales(text):
    formula = parse(text)
    assert ranking(formula) == parse("mul(W, X)")
    assert torch.equal(ranking(formula)(values()).argsort(dim=1), formula(values()).argsort(dim=1))


@pytest.mark.parametrize(
    "text", ["mul(X, div(W, sub(G, X)))", "sqrt(mul(div(W, W), div(X, G)))", "mul(div(X, W), W)"]
)
def test_divisors_of_all_within_products_change_no_order(text):
    formula = parse(text)
    assert ranking(formula) == parse("mul(W, X)")
    assert torch.equal(parse("mul(W, X)")(values()).argsort(dim=1), formula(values()).argsort(dim=1))


@pytest.mark.parametrize("text", ["sqr(zsn(W))", "sqrt(sub(W, G))", "neg(W)", "abs(log(W))", "log(neg(G))"])
def test_what_turns_an_order_around_is_kept(text):
    formula = parse(text)
    assert ranking(formula) == formula
    inner = formula.parts[0]
    assert not torch.equal(inner(values()).argsort(dim=1), formula(values()).argsort(dim=1))


def test_a_formula_that_ranks_columns_alone_is_not_measured():
    assert not genetics.fits(parse("div(X, W)"))
    assert genetics.fits(parse("div(W, X)"))


def test_parts_are_replaced_at_every_place():
    formula, new = parse("mul(abs(W), mms(G))"), Formula("X")
    made = [str(genetics.replaced(formula, place, new)) for place in range(formula.size)]
    assert made == ["X", "mul(X, mms(G))", "mul(abs(X), mms(G))", "mul(abs(W), X)", "mul(abs(W), mms(X))"]


def bred(seed, budget, loss):
    breeding, found = evolve(Breeding(seed=seed), budget), []
    formula = next(breeding)
    for number in range(budget):
        found.append(formula)
        if number + 1 < budget:
            formula = breeding.send(loss(formula))
    return found


def test_a_search_finds_small_losses_and_measures_nothing_twice():
    """Loss: how far a formula's ranks are from those of W sqrt(X). Bred ones do better than random ones."""
    target = parse("mul(W, sqrt(X))")(values()).argsort(1).argsort(1).float()

    def loss(formula):
        saliency = formula(values()).expand(6, 8)
        return (
            float((saliency.argsort(1).argsort(1) - target).abs().mean())
            if saliency.isfinite().all()
            else None
        )

    found = bred(3, 150, loss)
    assert len({ranking(one) for one in found}) == len(found)
    assert all(one.size <= genetics.LARGEST and one.operands & {"W", "G"} for one in found)
    losses = [value for value in map(loss, found) if value is not None]
    assert min(losses[10:]) < min(losses[:10])
    assert found == bred(3, 150, loss)
    assert found[:10] != bred(4, 10, loss)


# ------------------------------------------------------------------------------ fitness


@pytest.mark.parametrize("text", [PUBLISHED, "mul(W, sqrt(X))", "W"])
def test_a_formulas_loss_is_that_of_a_model_pruned_by_hand(text):
    network, statistics, held = tiny("llama"), sequences()[:2], sequences()[2:4]
    found = Fitness(copy.deepcopy(network), statistics, held, Sparsity.parse(0.5))
    inputs = {}
    with torch.no_grad():
        handles = []
        for index, block in enumerate(blocks(network)):
            for linear in linears(block):
                place = (index, linear.name)

                def see(_module, args, place=place):
                    inputs.setdefault(place, []).append(args[0].flatten(0, -2).square().sum(0))

                handles.append(linear.module.register_forward_pre_hook(see))
        for ids in statistics:
            network(ids)
        for handle in handles:
            handle.remove()
    squares = {}
    for ids in statistics:
        copied = copy.deepcopy(network).requires_grad_(True)
        copied(ids, labels=ids).loss.backward()
        for index, block in enumerate(blocks(copied)):
            for linear in linears(block):
                squares[index, linear.name] = (
                    squares.get((index, linear.name), 0) + linear.module.weight.grad**2
                )
    for index, block in enumerate(blocks(network)):
        for linear in linears(block):
            weight, gradient = linear.weight.abs(), squares[index, linear.name].sqrt()
            norm = torch.stack(inputs[index, linear.name]).mean(0).sqrt()
            scaled = (gradient - gradient.min()) / (gradient.max() - gradient.min())
            saliency = {"W": weight, PUBLISHED: weight**2 * scaled}.get(text, weight * norm)
            order = saliency.argsort(dim=1, stable=True)[:, : weight.shape[1] // 2]
            linear.weight.scatter_(1, order, 0.0)
    with torch.no_grad():
        wanted = sum(float(network(ids, labels=ids).loss) for ids in held) / len(held)
    assert found(parse("exp(exp(W))")) is not None
    assert found(parse(text)) == pytest.approx(wanted, rel=1e-5)


def test_a_saliency_that_is_not_finite_has_no_loss():
    found = Fitness(tiny("llama"), sequences()[:1], sequences()[1:2], Sparsity.parse(0.5))
    before = found.dense()
    assert found(parse("exp(exp(exp(exp(W))))")) is None
    assert found.dense() == before


def test_text_that_statistics_have_seen_is_refused():
    with pytest.raises(KickError, match="share text"):
        Fitness(tiny("llama"), sequences()[:2], sequences()[1:3], Sparsity.parse(0.5))


# ------------------------------------------------------------------------------ the whole study


def options(out, budget=6, **more):
    spec = CalibrationSpec("kick_mini_calibration", 2, 32)
    small = {"text": 2, "windows": 4, "breeding": Breeding(population=4), "executor": "inline"}
    return search.SearchOptions("smoke", spec, str(out), budget, **(small | more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search on the model `smoke`."""
    out = tmp_path_factory.mktemp("search")
    found = search.run(options(out), ["kick"], lambda text: None)
    assert found[-1].status == 0
    return out, *found


def test_a_search_that_was_cut_off_goes_on_and_gives_the_same(finished, tmp_path, monkeypatch):
    _, study, tried, known, *_ = finished
    lines = study.log.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 4 + 6  # the head, dense and three known formulas, the budget
    cut = search.plan(options(tmp_path))
    cut.log.write_text("".join(lines[:7]) + lines[7][:9])
    measured = []
    plain = Fitness.__call__
    monkeypatch.setattr(Fitness, "__call__", lambda self, one: measured.append(one) or plain(self, one))
    losses, again = search.search(cut, lambda text: None)
    assert (losses, again) == (known, tried)
    assert len(measured) == 4  # two of six were there
    assert cut.log.read_text() == study.log.read_text()
    measured.clear()
    longer = search.plan(options(tmp_path, budget=7))
    assert search.search(longer, lambda text: None)[1][:6] == tried
    assert len(measured) == 1


def test_the_found_formula_is_a_method_and_its_perplexity_is_of_its_cell(finished, tmp_path):
    _, study, tried, known, store, _ = finished
    made = search.best(tried)
    assert made.loss == min(one.loss for one in tried if one.loss is not None)
    tables, files = search_pages.write(study, tried, known, store, tmp_path)
    assert {one.name for one in files} == {"formulas.csv", "search.md", "search.png", "search.pdf"}
    page = (tmp_path / "search.md").read_text()
    assert str(made.formula) in page
    assert "random weights" in page
    compared = search_pages.compare(study, made.formula, store)
    network, tokenizer = model.load(study.model)
    spec = study.cell(made.formula)
    data = measuring.corpus.sequences(spec.variant.calibration, tokenizer)
    compress(network, spec.variant.recipe, data)
    items = study.task.items(spec.task, tokenizer)
    windows = [torch.tensor([item.requests[0].tokens]) for item in items]
    with torch.no_grad():
        losses = [float(network(ids, labels=ids).loss) for ids in windows]
    assert compared.found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-3)
    assert compared.gap == pytest.approx(compared.found - compared.published)
    assert compared.verdict in page
    assert len(tables) == 2


def test_a_log_of_another_search_is_refused(finished, tmp_path):
    _, study, *_ = finished
    (tmp_path / search.LOG).write_text(study.log.read_text())
    with pytest.raises(KickError, match="of another search"):
        search.plan(options(tmp_path, sparsity="0.6"))
    (tmp_path / search.LOG).write_text(json.dumps({"search": study.identity}) + "\n{nonsense\n")
    with pytest.raises(KickError, match="line 2: not JSON"):
        search.plan(options(tmp_path))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"budget": 3}, "budget: got 3; expected: a whole number of at least 4"),
        ({"breeding": Breeding(population=2)}, "population: got 2"),
        ({"sparsity": "2"}, "sparsity"),
        ({"sparsity": "0"}, "sparsity: got 0"),
        ({"text": 0}, "fitness: got 0"),
        ({"perplexity": "kick_mini_mcq"}, "protocol 'perplexity'"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(more, words, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "load", lambda *_args, **_options: pytest.fail("a model was loaded"))
    with pytest.raises(KickError, match=words):
        search.plan(options(tmp_path, **more))


def test_the_command_needs_a_budget():
    told = CliRunner().invoke(app, ["study", "search", "smoke"])
    assert told.exit_code == 2


def test_a_step_with_the_published_formula_is_the_same_however_it_is_written():
    plain = canonical("pruner-zero", {"sparsity": 0.5})
    assert canonical("pruner-zero", {"sparsity": 0.5, "formula": "mul(abs(mul(W,W)),mms( G ))"}) == plain
