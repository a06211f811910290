"""The tokenizer of a GGUF file is the one that the file describes.

transformers 5.17 reads neither `tokenizer.ggml.pre` (how text is split) nor `add_bos_token`; for Qwen2 it
builds a tokenizer with a token more than the embedding has. The demo model's tokens below are llama.cpp's own
(of the version that llama-cpp-python 0.3.36 brings); the others follow from the rules by hand.
"""

import pytest
import transformers as tf

from kick.errors import KickError
from kick.model import load, resolve
from kick.model.gguf.file import read
from kick.model.gguf.vocabulary import SPLITS, merges_of, tokenizer_of
from kick.model.source import locate, tokenizer_in
from tests.regressions.gguf_files import BASE, as_llama, keys_of, made, tensors_of, tokenizer_keys, write

CONFIG = tf.LlamaConfig(**BASE, head_dim=8)
# SentencePiece: control tokens, bytes, pieces with scores
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
SCORED = {"▁": -9.0, "h": -10.0, "e": -11.0, "l": -12.0, "o": -13.0, "▁h": -1.0, "el": -2.0, "lo": -4.0,
          "ll": -3.0, "▁hel": -5.0, "▁hello": -6.0}  # fmt: skip


def tokenizer(tmp_path, **keys):
    named = {f"tokenizer.{name}": value for name, value in keys.items()}
    return tokenizer_of(read(write(tmp_path / "model.gguf", "llama", named, [])), None)


def renamed(keys):
    return {name.removeprefix("tokenizer."): value for name, value in keys.items()}


def sentencepiece(**more):
    filler = [f"filler{number}" for number in range(512 - len(PIECES) - len(SCORED))]
    tokens = [*PIECES, *SCORED, *filler]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(SCORED) + len(filler))]
    scores = [0.0] * len(PIECES) + list(SCORED.values()) + [-1000.0] * len(filler)
    return {
        "ggml.model": "llama", "ggml.pre": None, "ggml.merges": None, "ggml.tokens": tokens,
        "ggml.token_type": types, "ggml.scores": scores, "ggml.unknown_token_id": 0,
        "ggml.padding_token_id": None,
    } | more  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The capital of France is", [504, 3575, 282, 4649, 314]),
        ("Hello world! 123", [19556, 905, 17, 216, 33, 34, 35]),
        ("x  12", [104, 256, 33, 34]),
        ("  multiple   spaces", [216, 2701, 256, 5600]),
        ("Café déjà vu.", [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]),
        ("<|im_start|>user\n", [1, 4093, 198]),
    ],
)
def test_the_demo_model_splits_as_its_file_says(text, ids):
    assert tokenizer_in(locate("smollm2-135m"))(text).input_ids == ids


def test_each_rule_cuts_digits_as_its_models_do(tmp_path):
    """By hand: GPT-2 leaves numbers whole, SmolLM cuts each digit, Llama 3 cuts three, Qwen 2 one."""
    cut = {"gpt-2": ["x", " 12345"], "smollm": ["x", " ", *"12345"], "llama-bpe": ["x", " ", "123", "45"],
           "qwen2": ["x", " ", *"12345"], "falcon": ["x", " ", "123", "45"]}  # fmt: skip
    for pre, pieces in cut.items():
        splitter = tokenizer(tmp_path, **{"ggml.pre": pre}).backend_tokenizer.pre_tokenizer
        found = [piece.replace("Ġ", " ") for piece, _ in splitter.pre_tokenize_str("x 12345")]
        if pre == "falcon":  # its thousands are cut out of the number with its blank
            assert "".join(found) == "x 12345"
            assert "123" in found
        else:
            assert found == pieces, pre


@pytest.mark.parametrize("pre", SPLITS)
def test_every_rule_keeps_every_character(pre, tmp_path):
    text = "I'LL pay $1,234.50 for McDonald's\r\n\n  naïve 日本語 text; x²=½ 😀\tend "
    made = tokenizer(tmp_path, **{"ggml.pre": pre, "ggml.add_bos_token": False})
    assert made.decode(made(text).input_ids) == text


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        ({}, []),
        ({"ggml.add_bos_token": True}, [1]),
        ({"ggml.pre": "llama-bpe"}, [1]),  # Llama 3 begins with BOS where the file does not say
        ({"ggml.pre": "llama-bpe", "ggml.add_bos_token": False}, []),
        ({"ggml.add_bos_token": True, "ggml.add_eos_token": True}, [1, 2]),
    ],
)
def test_begin_and_end_are_the_files(keys, ids, tmp_path):
    assert tokenizer(tmp_path, **keys)("").input_ids == ids


def test_sentencepiece_merges_the_best_piece_first(tmp_path):
    """By hand, for "hello": ▁h (-1), el (-2), lo (-4), ▁h+el (-5), ▁hel+lo (-6)."""
    made = tokenizer(tmp_path, **sentencepiece())
    assert made.convert_ids_to_tokens(made("hello").input_ids) == ["<s>", "▁hello"]
    assert made.convert_ids_to_tokens(made("hell").input_ids) == ["<s>", "▁hel", "l"]
    assert made.convert_ids_to_tokens(made("é").input_ids) == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert made.decode(made("hello é").input_ids, skip_special_tokens=True) == "hello é"
    bare = tokenizer(
        tmp_path, **sentencepiece(**{"ggml.add_space_prefix": False, "ggml.add_bos_token": False})
    )
    assert bare.convert_ids_to_tokens(bare("ell hello").input_ids) == ["el", "l", "▁hello"]


def test_merges_come_by_score():
    assert merges_of(["a", "b", "ab", "aba"], [0.0, -1.0, -5.0, -3.0]) == [("ab", "a"), ("a", "b")]


def test_a_users_token_is_never_cut(tmp_path):
    keys = renamed(tokenizer_keys())
    tokens, types = list(keys["ggml.tokens"]), list(keys["ggml.token_type"])
    tokens[-1], types[-1] = "==mark==", 4
    merges = [merge for merge in keys["ggml.merges"] if merge.replace(" ", "") in tokens]
    changed = {"ggml.tokens": tokens, "ggml.token_type": types, "ggml.merges": merges}
    made = tokenizer(tmp_path, **changed)
    assert made("water==mark==water").input_ids.count(511) == 1


def test_qwen2_has_as_many_tokens_as_its_embedding(tmp_path):
    config = tf.Qwen2Config(**BASE)
    source = made(config)
    file = write(tmp_path / "model.gguf", "qwen2", keys_of(config), tensors_of(source, "qwen2"))
    model, found = load(resolve(str(file)))
    assert len(found) == model.get_input_embeddings().num_embeddings == 512


def test_an_answer_ends_with_the_turn_too(tmp_path):
    source = made(CONFIG)
    keys = keys_of(CONFIG, **{"tokenizer.ggml.eot_token_id": 7})
    file = write(tmp_path / "model.gguf", "llama", keys, tensors_of(source, "llama", as_llama(CONFIG)))
    assert load(resolve(str(file)))[0].generation_config.eos_token_id == [2, 7]


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"ggml.pre": "nobody"}, r"pre = 'nobody', so how its texts are split is not known"),
        ({"ggml.pre": None}, r"pre = None.*made by an old llama\.cpp"),
        ({"ggml.model": "t5"}, r"tokenizer 't5' \(tokenizer\.ggml\.model\)"),
        ({"ggml.new_flag": True}, r"tokenizer\.ggml\.new_flag = True, which kick does not know"),
        ({"ggml.add_space_prefix": True}, "add_space_prefix = true with byte-level BPE"),
        ({"ggml.add_bos_token": True, "ggml.bos_token_id": None}, r"no tokenizer\.ggml\.bos_token_id"),
        ({"ggml.merges": ["abc"]}, "the merge 'abc', expected two pieces"),
        ({"ggml.merges": ["zq qz"]}, "'zq qz' of pieces that are not tokens"),
        ({"ggml.tokens": None}, r"no tokenizer\.ggml\.tokens"),
        ({"ggml.remove_extra_whitespaces": True}, "remove_extra_whitespaces = True"),
    ],
)
def test_what_is_not_read_is_refused_by_name(keys, word, tmp_path):
    with pytest.raises(KickError, match=word):
        tokenizer(tmp_path, **keys)
