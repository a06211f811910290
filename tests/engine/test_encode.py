"""Texts are tokenised once, with one BOS at most, whoever asks."""

from __future__ import annotations

import logging
import multiprocessing

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from kick.engine import Engine
from kick.engine.encode import Encoder, TokenCache, digest
from kick.errors import KickError
from kick.records import Request


def copy_of(tokenizer, **options) -> PreTrainedTokenizerFast:
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    backend = tokenizer.backend_tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(special | options))


def with_bos(tokenizer) -> PreTrainedTokenizerFast:
    """The same tokenizer, putting a BOS in front."""
    copy = copy_of(tokenizer)
    copy.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", copy.bos_token_id)]
    )
    return copy


def test_a_variant_finds_every_text_known(tokenizer, tmp_path, models):
    requests = [
        Request("loglikelihood", context="The river", continuation=" is long"),
        Request("generate", context="The river", max_tokens=2),
        Request("rolling", context="a text"),
    ]
    first = Engine(models("llama"), tokenizer, token_cache=tmp_path)
    wanted = first.answer(requests)
    assert first.notes()["texts"]["tokenised"] == 3
    second = Engine(models("llama"), tokenizer, token_cache=tmp_path)
    assert second.answer(requests) == wanted
    assert second.notes()["texts"] == {"tokenised": 0, "known": 4}


def _store(folder, start):
    cache = TokenCache("t", folder)
    for i in range(start, start + 40):
        cache.put([(i.to_bytes(16, "big"), (i, i + 1))])


def test_several_processes_share_the_cache(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(_store, [(tmp_path, start) for start in (0, 20, 40)])
    cache = TokenCache("t", tmp_path)
    keys = [i.to_bytes(16, "big") for i in range(81)]
    assert cache.get(keys) == [(i, i + 1) for i in range(80)] + [None]


def test_another_tokenizer_has_another_digest(tokenizer):
    assert digest(tokenizer) == digest(copy_of(tokenizer))
    assert digest(tokenizer) != digest(with_bos(tokenizer))


def test_a_bos_is_never_doubled(tokenizer):
    bos = with_bos(tokenizer)
    encoder = Encoder(bos, 64)
    assert encoder.adds_bos
    assert not Encoder(tokenizer, 64).adds_bos
    chat = "<|im_start|>user\nhello<|im_end|>\n"
    for ids in (*encoder.scored([chat, "plain"]), *encoder.continued([chat, "plain"])):
        assert ids.count(bos.bos_token_id) == 1
        assert ids[0] == bos.bos_token_id


def test_a_missing_bos_is_warned_about_once(tokenizer, caplog):
    wanting = copy_of(tokenizer)
    object.__setattr__(wanting, "_add_bos_token", True)  # said, but nothing in the tokenizer does it
    encoder = Encoder(wanting, 64)
    with caplog.at_level(logging.WARNING, "kick.engine"):
        encoder.continued(["a"])
        encoder.continued(["b"])
    assert caplog.text.count("set to begin with") == 1


def test_a_tokenizer_without_ends_is_refused(tokenizer):
    with pytest.raises(KickError, match="neither a BOS nor an EOS"):
        Encoder(copy_of(tokenizer, bos_token=None, eos_token=None), 64)
