"""The tokenizer of a GGUF file, by the file's own rules: `tokenizer.ggml.*`.

Two kinds are read: byte-level BPE ("gpt2"), whose text is first split as `tokenizer.ggml.pre` names it, and
SentencePiece BPE ("llama"). transformers 5.17 reads neither `pre` nor `add_bos_token`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kick.errors import KickError
from kick.model.gguf.file import GgufFile

_UNKNOWN, _CONTROL, _USER = 2, 3, 4  # token types
_START = "▁"  # SentencePiece's blank
# Metadata that do not change which tokens a text has
_SILENT = {
    "tokenizer.chat_template", "tokenizer.chat_templates", "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.mask_token_id", "tokenizer.ggml.token_type_count", "tokenizer.huggingface.json",
    "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id", "tokenizer.ggml.cls_token_id",
}  # fmt: skip
_SILENT_PARTS = ("tokenizer.chat_template.", "tokenizer.ggml.fim_", "tokenizer.ggml.prefix_token_id",
                 "tokenizer.ggml.suffix_token_id", "tokenizer.ggml.middle_token_id")  # fmt: skip
_READ = {
    f"tokenizer.ggml.{name}"
    for name in (
        "model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id",
        "unknown_token_id", "padding_token_id", "add_bos_token", "add_eos_token", "add_space_prefix",
    )
}  # fmt: skip
# Keys with one value that is read; another is refused
_FIXED = {"tokenizer.ggml.add_sep_token": False, "tokenizer.ggml.remove_extra_whitespaces": False}

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # GPT-2's
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ONE = r"[^\r\n\p{L}\p{N}]?"
_LOW, _UP = f"{_ONE}{_UPPER}*{_LOWER}+", f"{_ONE}{_UPPER}+{_LOWER}*"  # words by case, as GPT-4o's
_REST_SLASH = _REST.replace(r"[\r\n]*", r"[\r\n/]*", 1)
_REST_MARKS = _REST.replace(r"\p{L}", r"\p{L}\p{M}", 1)
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)


@dataclass(frozen=True)
class Split:
    """How a text is cut before its pieces are merged.

    Attributes:
        patterns: applied one after the other to what the one before left; each match is a piece of its own.
        whole: a piece that is a token itself is that token, whatever its merges would give.
        begins: whether a text begins with the BOS token where the file does not say.
        composed: whether the tokenizer of that name composes characters first (NFC).
    """

    patterns: tuple[str, ...]
    whole: bool = False
    begins: bool = False
    composed: bool = False


_GPT2 = Split((_WORDS,))
_DIGITS = Split((r"\p{N}", _WORDS))
_LLAMA3 = Split((rf"{_SHORT}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}",), whole=True, begins=True)
_QWEN2 = Split((rf"{_SHORT}|{_LETTERS}|\p{{N}}|{_REST}",), composed=True)
_GPT4O = Split((rf"{_LOW}{_SHORT}?|{_UP}{_SHORT}?|\p{{N}}{{1,3}}|{_REST_SLASH}",))
# tokenizer.ggml.pre -> its rule, as the tokenizer.json of the models that it was named after has it
SPLITS: Mapping[str, Split] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "mellum"), _GPT2),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _DIGITS
    ),
    "command-r": Split(_DIGITS.patterns, composed=True),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Split(_LLAMA3.patterns)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
    "stablelm2": Split(_QWEN2.patterns, composed=True),
    "tekken": Split((rf"{_LOW}|{_UP}|\p{{N}}|{_REST_SLASH}",), whole=True, begins=True),
    **dict.fromkeys(("gpt-4o", "llama4", "minimax-m2"), _GPT4O),
    "deepseek-v3": Split((r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    "deepseek-coder": Split(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
    ),
    "qwen35": Split(
        (rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|{_REST_MARKS}",), composed=True
    ),
    "falcon": Split((r"[\p{P}\$\+<=>\^~\|`]+", _WORDS, r"[0-9][0-9][0-9]")),
    "bloom": Split((r" ?[^(\s|.,!?…。，、।۔،)]+",)),
}  # fmt: skip


def tokenizer_of(file: GgufFile, length: int | None) -> PreTrainedTokenizerFast:
    """The file's tokenizer; `length` is the most tokens that its model takes.

    Raises:
        KickError: a kind of tokenizer, a rule of splitting or a key that is not read.
    """
    fields = file.fields
    _check(file)
    tokens = _list(file, "tokenizer.ggml.tokens")
    if fields["tokenizer.ggml.model"] == "gpt2":
        tokenizer, begins = _byte_level(file, tokens)
    else:
        tokenizer, begins = _sentencepiece(file, tokens), True
    special = {
        name: tokens[fields[key]]
        for name, key in (
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
            ("unk_token", "tokenizer.ggml.unknown_token_id"),
            ("pad_token", "tokenizer.ggml.padding_token_id"),
        )
        if key in fields
    }
    if "eos_token" in special:
        special.setdefault("pad_token", special["eos_token"])
    _add_special(tokenizer, file, tokens, set(special.values()))
    _surround(tokenizer, file, special, begins)
    template = fields.get("tokenizer.chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        **({"model_max_length": length} if length else {}),
        **({"chat_template": template} if template else {}),
        **special,
    )


def _check(file: GgufFile) -> None:
    """Raises KickError for what is not read."""
    fields = file.fields
    kind = fields.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise KickError(
            f"{file.path.name} has the tokenizer {kind!r} (tokenizer.ggml.model), which kick cannot read; "
            "expected 'gpt2' (byte-level BPE) or 'llama' (SentencePiece BPE)"
        )
    for name, value in fields.items():
        if not name.startswith("tokenizer.") or name in _READ | _SILENT or name.startswith(_SILENT_PARTS):
            continue
        if _FIXED.get(name, object()) != value:
            raise KickError(
                f"{file.path.name} has the metadata key {name} = {str(value)[:60]}, which kick does not "
                "know: texts would not be split as the file says"
            )
    if kind == "gpt2" and fields.get("tokenizer.ggml.add_space_prefix"):
        raise KickError(
            f"{file.path.name} has tokenizer.ggml.add_space_prefix = true with byte-level BPE, where "
            "llama.cpp does not obey it; expected false"
        )


def _byte_level(file: GgufFile, tokens: Sequence[str]) -> tuple[Tokenizer, bool]:
    """Byte-level BPE, and whether its texts begin with BOS by default."""
    pre = file.fields.get("tokenizer.ggml.pre")
    if not isinstance(pre, str) or pre not in SPLITS:
        raise KickError(
            f"{file.path.name} has tokenizer.ggml.pre = {pre!r}, so how its texts are split is not known; "
            f"expected one of {', '.join(sorted(SPLITS))}. A file without it was made by an old llama.cpp: "
            "convert the model again"
        )
    split = SPLITS[pre]
    merges = [_pair(file, merge) for merge in _list(file, "tokenizer.ggml.merges")]
    tokenizer = _bpe(file, tokens, merges, ignore_merges=split.whole)
    if split.composed:
        tokenizer.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.begins


def _sentencepiece(file: GgufFile, tokens: Sequence[str]) -> Tokenizer:
    """SentencePiece BPE with bytes for what is not in the vocabulary; merges follow from the scores."""
    scores = _list(file, "tokenizer.ggml.scores")
    unknown = file.fields.get("tokenizer.ggml.unknown_token_id")
    bytes_too = all(f"<0x{byte:02X}>" in set(tokens) for byte in (0, 255))
    tokenizer = _bpe(
        file, tokens, merges_of(tokens, scores), byte_fallback=bytes_too, fuse_unk=True,
        unk_token=None if unknown is None else tokens[unknown],
    )  # fmt: skip
    prefix = file.fields.get("tokenizer.ggml.add_space_prefix", True)
    blank = normalizers.Replace(" ", _START)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_START), blank]) if prefix else blank
    steps = [decoders.Replace(_START, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return tokenizer


def merges_of(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece vocabulary: the pair of the best piece first."""
    known = {token: number for number, token in enumerate(tokens)}
    found = []
    for piece, score in zip(tokens, scores, strict=True):
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        pairs = [(left, right) for left, right in cuts if left in known and right in known]
        pairs.sort(key=lambda pair: (known[pair[0]], known[pair[1]]))
        found += [(score, pair) for pair in pairs]
    found.sort(key=lambda entry: entry[0], reverse=True)  # stable: equal scores keep the vocabulary's order
    return [pair for _, pair in found]


def _bpe(file: GgufFile, tokens: Sequence[str], merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise KickError(
            f"{file.path.name} has {len(tokens) - len(vocabulary)} tokens twice in its vocabulary"
        )
    for left, right in merges:
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise KickError(
                f"{file.path.name} has the merge {left + ' ' + right!r} of pieces that are not tokens"
            )
    return Tokenizer(models.BPE(vocabulary, merges, **options))


def _add_special(tokenizer: Tokenizer, file: GgufFile, tokens: Sequence[str], named: set[str]) -> None:
    """Control tokens and the user's own are never cut."""
    types = file.fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    for token, kind in zip(tokens, types, strict=True):
        if kind == _CONTROL or token in named:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])


def _surround(tokenizer: Tokenizer, file: GgufFile, special: Mapping[str, str], begins: bool) -> None:
    """BOS before and EOS behind a text, as the file says."""
    parts = {
        "bos_token": file.fields.get("tokenizer.ggml.add_bos_token", begins),
        "eos_token": file.fields.get("tokenizer.ggml.add_eos_token", False),
    }
    for name, added in parts.items():
        if added and name not in special:
            key = f"tokenizer.ggml.{name.removesuffix('_token')}_token_id"
            raise KickError(f"{file.path.name} has texts begin or end with a token, but no {key}")
    bos, eos = (special[name] if added else None for name, added in parts.items())
    if bos or eos:
        single = [part for part in (bos, "$A", eos) if part]
        pair = [part for part in (bos, "$A", eos, bos and f"{bos}:1", "$B:1", eos and f"{eos}:1") if part]
        ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((bos, eos)) if token]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _pair(file: GgufFile, merge: str) -> tuple[str, str]:
    left, blank, right = merge.partition(" ")
    if not blank or " " in right:
        raise KickError(f"{file.path.name} has the merge {merge!r}, expected two pieces with a blank between")
    return left, right


def _list(file: GgufFile, name: str) -> list[Any]:
    found = file.fields.get(name)
    if not isinstance(found, list):
        raise KickError(f"{file.path.name} has no {name}, which its tokenizer needs")
    return found
