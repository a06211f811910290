"""Vocabulary pruning: kept text is cut alike and gives equal logits; the rest is cut into what is left."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, processors

import kick
from kick import tasks
from kick.analysis import traits
from kick.compress import canonical, check, compress
from kick.compress.calibrate import corpus
from kick.compress.calibrate.windows import Tokenised
from kick.compress.checkpoint import save
from kick.compress.context import Calibration
from kick.compress.methods.vocab import narrow
from kick.compress.vocabulary import BytePairs, chain
from kick.engine import Engine
from kick.errors import CellFailed, KickError, WrongOption
from kick.matrix import running
from kick.model import load, resolve
from kick.model.source import tokenizer_in
from kick.records import ModelSpec, Request, Variant
from kick.report import wording
from kick.store import Store
from tests.support.architectures import tiny

KEPT = "the house of the river. What is the capital of this country?\n\nThere are many small towns there."
STEP = canonical("vocab", {"corpora": "wikitext2"})  # whose text is KEPT here


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(
        corpus.CORPORA, "wikitext2", corpus.Corpus("wikitext2", "a test's", lambda _root: [KEPT])
    )


@pytest.fixture(scope="module")
def smoke():
    return load(resolve("smoke"))


def pruned(model, tokenizer, *steps, texts=()):
    calibration = Calibration(tuple(texts), corpora=Tokenised(tokenizer))
    return compress(model, [STEP, *steps], calibration), calibration


def model_of(tokenizer, tied=True):
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = tf.LlamaConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 9, hidden_size=32, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=tied, initializer_range=0.2, **ids,
    )  # fmt: skip
    torch.manual_seed(1)
    return tf.LlamaForCausalLM(config).eval().requires_grad_(False)


def old_ids(tokenizer, made):
    """The old id of each new one."""
    before = tokenizer.get_vocab()
    return [before[token] for token, _ in sorted(made.get_vocab().items(), key=lambda item: item[1])]


def test_a_chain_is_what_the_library_makes_on_the_way(smoke):
    encoding = BytePairs.of(smoke[1])
    merges = [tuple(pair) for pair in encoding.whole["model"]["merges"]]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    alone = encoding.vocabulary.keys() - {token for token in encoding.vocabulary if len(token) > 1}
    for a, b in merges:
        needed = {*chain(a, ranks), *chain(b, ranks), a + b}
        assert set(chain(a + b, ranks)) == needed  # each merge here is the only one to its token
        assert needed & alone == set(a + b) & alone


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_kept_tokens_are_equal_to_the_bit(smoke, tied):
    tokenizer = smoke[1]
    dense, model = model_of(tokenizer, tied), model_of(tokenizer, tied)
    report, calibration = pruned(model, tokenizer)
    made = calibration.tokenizer
    kept = old_ids(tokenizer, made)
    text = " of this house. There are many rivers there. What is the capital?"
    before, after = tokenizer(text)["input_ids"], made(text)["input_ids"]
    assert [kept[one] for one in after] == before
    with torch.no_grad():
        expected, found = (
            m(torch.tensor([ids]), output_hidden_states=True) for m, ids in ((dense, before), (model, after))
        )
    assert torch.equal(expected.hidden_states[-1], found.hidden_states[-1])
    assert torch.equal(expected.logits[..., kept], found.logits)
    mass = expected.logits.softmax(-1)[..., kept].sum(-1, keepdim=True)
    rise = found.logits.log_softmax(-1) - expected.logits.log_softmax(-1)[..., kept]
    assert torch.allclose(rise, -mass.log().expand_as(rise), atol=1e-5)
    rows = len(kept)
    assert rows == made.vocab_size == model.config.vocab_size < 330
    (note,) = report["notes"]
    assert (note["kept"], note["of"], note["logit_difference"]) == (rows, model_of(tokenizer).vocab_size, 0)
    gone = (dense.config.vocab_size - rows) * 32 * (1 if tied else 2)
    whole = sum(p.numel() for p in dense.parameters())
    assert report["footprint"]["parameters"] == whole - gone
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_other_text_is_cut_into_kept_tokens_and_comes_back(smoke):
    tokenizer = smoke[1]
    _, calibration = pruned(model_of(tokenizer), tokenizer)
    made = calibration.tokenizer
    text = " science, music and question 42 \u2014 \u00e9\u4e2d\U0001f98a\n\tdef f():"
    assert made.decode(made(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(made(text)["input_ids"]) > len(tokenizer(text)["input_ids"])
    turns = [{"role": "user", "content": "house"}]
    both = [
        t.apply_chat_template(turns, tokenize=True, add_generation_prompt=True) for t in (tokenizer, made)
    ]
    kept = old_ids(tokenizer, made)
    assert [kept[one] for one in both[1]["input_ids"]] == both[0]["input_ids"]


def test_a_saved_checkpoint_answers_as_the_model_in_memory(smoke, tmp_path):
    tokenizer = smoke[1]
    model = model_of(tokenizer)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 300]
    report, calibration = pruned(model, tokenizer)
    made = calibration.tokenizer
    save(model, made, calibration, report, tmp_path / "out")
    spec = resolve(str(tmp_path / "out"))
    again, own = load(spec)
    assert own.get_vocab() == made.get_vocab()
    asked = [
        Request("generate", " What is music", max_tokens=8),
        Request("loglikelihood", " the music of", continuation=" science"),
    ]
    assert Engine(again, own).answer(asked) == Engine(model, made).answer(asked)
    ends = [own.convert_ids_to_tokens(one) for one in again.generation_config.eos_token_id]
    assert ends == tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, 300])
    assert own.convert_ids_to_tokens(again.config.pad_token_id) == tokenizer.pad_token


def byte_fallback():
    """A tokenizer as Llama 2's: words begin with a mark, unknown characters are bytes, BOS by a template."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{one:02X}>" for one in range(256))]
    letters = ["\u2581", *"abcdeghiorstuvw", "th", "the", "\u2581the", "ou", "ri", "ver", "er", "at", "se"]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("o", "u"), ("r", "i"), ("e", "r"), ("v", "er")]
    merges += [("a", "t"), ("s", "e")]
    tokens = {token: place for place, token in enumerate([*pieces, *letters])}
    backend = Tokenizer(models.BPE(tokens, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marks = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    backend.normalizer = normalizers.Sequence(marks)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def gpt2(smoke):
    whole = BytePairs.of(smoke).whole["model"]
    merges = [tuple(pair) for pair in whole["merges"]]
    return tf.GPT2Tokenizer(
        vocab=whole["vocab"], merges=merges, bos_token="<|im_end|>", eos_token="<|im_end|>",
        pad_token="<|pad|>", unk_token="<|im_end|>",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bytes", "gpt2"])
def test_other_tokenizers_keep_their_ways(kind, smoke, tmp_path, monkeypatch):
    tokenizer = byte_fallback() if kind == "bytes" else gpt2(smoke[1])
    text = "the river at the house" if kind == "bytes" else KEPT
    monkeypatch.setitem(corpus.CORPORA, "wikitext2", corpus.Corpus("wikitext2", "", lambda _root: [text]))
    _, calibration = pruned(model_of(tokenizer), tokenizer)
    made = calibration.tokenizer
    made.save_pretrained(tmp_path)
    again = tokenizer_in(tmp_path)
    kept = old_ids(tokenizer, made)
    for one in (made, again):
        assert type(one) is type(tokenizer)
        assert [kept[place] for place in one(text)["input_ids"]] == tokenizer(text)["input_ids"]
        other = "a wet \u00e9 dog" if kind == "bytes" else " music \u00e9"
        assert one.decode(one(other)["input_ids"], skip_special_tokens=True) == other
        assert (one("the")["input_ids"][0] == one.bos_token_id) == (kind == "bytes")


def test_later_steps_see_the_calibration_text_in_its_new_ids(smoke):
    tokenizer = smoke[1]
    ids = torch.tensor([tokenizer(KEPT)["input_ids"]])
    model, dense = model_of(tokenizer), model_of(tokenizer)
    wanda = canonical("wanda", {"sparsity": 0.5})
    _, calibration = pruned(model, tokenizer, wanda, texts=[ids])
    kept = torch.tensor(old_ids(tokenizer, calibration.tokenizer))
    assert torch.equal(kept[calibration[0]], ids)
    compress(dense, [wanda], [ids])
    for one, other in zip(model.model.layers.parameters(), dense.model.layers.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_done_is_refused(smoke):
    tokenizer = smoke[1]
    with pytest.raises(WrongOption, match="corpus"):
        canonical("vocab", {"corpora": "wikitext2+smal"})
    with pytest.raises(KickError, match="none is known here"):
        compress(model_of(tokenizer), [STEP], Calibration())
    made = pruned(model_of(tokenizer), tokenizer)[1].tokenizer
    removed = tokenizer.get_vocab().keys() - made.get_vocab().keys()
    gone = torch.tensor([tokenizer.convert_tokens_to_ids(sorted(removed)[:2])])
    with pytest.raises(KickError, match="needs 2 tokens that vocab removes"):
        pruned(model_of(tokenizer), tokenizer, texts=[gone])
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(KickError, match="of the kind WordLevel"):
        BytePairs.of(tf.PreTrainedTokenizerFast(tokenizer_object=words))
    with pytest.raises(KickError, match="trains on text"):
        check(tiny("llama"), [STEP, canonical("recover-lora", {})])
    padded = tiny("llama")
    padded.config.vocab_size -= 1
    with pytest.raises(KickError, match="its config does not say so"):
        check(padded, [STEP])
    words = tiny("llama")
    words.generation_config.bad_words_ids = [[3]]
    with pytest.raises(KickError, match="bad_words_ids"):
        check(words, [STEP])


def test_a_model_with_more_that_depends_on_ids_fails(smoke):
    model = model_of(smoke[1])
    extra = torch.randn(model.config.vocab_size, 32)
    model.model.embed_tokens.register_forward_hook(lambda _, args, out: out + extra[args[0]])
    with pytest.raises(CellFailed, match="more of it than embedding and head"):
        pruned(model, smoke[1])


@pytest.mark.parametrize("name", ["qwen3", "opt", "gpt2", "gpt_neox", "mixtral", "mamba"])
def test_architectures_keep_the_logits_of_kept_tokens(name):
    model, dense, kept = tiny(name), tiny(name), [0, 1, 2, *range(40, 96, 2)]
    check(model, [STEP])
    narrow(model, {old: new for new, old in enumerate(kept)})
    ids = torch.randint(3, len(kept), (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = model(ids).logits, dense(torch.tensor(kept)[ids]).logits[..., kept]
    assert torch.equal(found, expected)


def test_a_matrix_asks_such_a_variant_what_counts_no_tokens_of_dense():
    variant = Variant("vocab", ModelSpec("smoke"), (STEP,))
    facts = {"needs_reference": False, "reads_text": False, "reads_states": False, "size": 10}
    task = SimpleNamespace(**facts, name="t")
    assert running.not_asked(variant, task) == ""
    for other in ({"needs_reference": True}, {"size": None}):
        asked = SimpleNamespace(**facts | other, name="t")
        assert "dense's" in running.not_asked(variant, asked)
        assert running.not_asked(replace(variant, recipe=()), asked) == ""
        (said,) = running._retokenised(SimpleNamespace(variant=variant, path=()), {"t": asked}, "packed")
        assert "not applicable to any task" in said.message
    (said,) = running._retokenised(SimpleNamespace(variant=variant, path=()), {"t": task}, "vllm")
    assert "needs the engine packed; got vllm" in said.message
    row, others = (
        {"method": "vocab + wanda", "runtime": ""},
        {"dense": {"asks": "text", "metric": "perplexity"}},
    )
    assert "dense's" in wording.not_applicable(row, others)
    assert wording.not_applicable(row | {"method": "wanda"}, others) is None
    assert wording.not_applicable(row, {"dense": others["dense"] | {"metric": "word_perplexity"}}) is None
    assert traits.label(variant) == "vocab wikitext2"


def test_a_matrix_measures_what_a_checkpoint_would_answer(tmp_path):
    """Dense's drafts and states are of other ids: the variant must not see them."""
    text = """
name: vocab
model: smoke
replicas: []
limit: 2
tasks: [kick_mini_closed, kick_mini_mcq, kick_mini_perplexity]
variants: [{method: vocab, corpora: wikitext2}]
"""
    ran = kick.run(text, out=tmp_path, options=kick.RunOptions(executor="inline", view="json"))
    assert (ran.status, ran.done, ran.failed) == (0, 5, 0)
    store = Store(str(tmp_path), "vocab")
    made = {one.cell.task.name: one for one in store.runs() if not one.cell.variant.dense}
    assert set(made) == {"kick_mini_closed", "kick_mini_mcq"}
    assert made["kick_mini_closed"].provenance["engine"]["drafted"] == 0
    assert re.fullmatch("[0-9a-f]{64}", made["kick_mini_mcq"].cell.variant.recipe[0].options["digest"])
    model, tokenizer = load(resolve("smoke"))
    _, calibration = pruned(model, tokenizer)
    cell = made["kick_mini_closed"].cell
    items = tasks.load(("kick_mini_closed",), None)["kick_mini_closed"].items(
        cell.task, calibration.tokenizer
    )
    answers = Engine(model, calibration.tokenizer).answer([item.requests[0] for item in items])
    stored = {
        sample.item: sample.responses[0].tokens for sample in store.samples(made["kick_mini_closed"].key)
    }
    assert stored == {item.id: answer.tokens for item, answer in zip(items, answers, strict=True)}
