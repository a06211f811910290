"""Vocabulary pruning: tokens that given corpora do not use are removed; embeddings and head shrink.

After Chengyue Yu, Lei Zang, Jiaotuan Wang, Chenyi Zhuang, Jinjie Gu: CharPoet: A Chinese Classical Poetry
Generation System Based on Token-free LLM. ACL 2024 (demonstrations), arXiv 2401.03512, which removes the
tokens of several characters and trains the rest. Here nothing is trained, and text says which tokens go.

Kept are the tokens of the corpora, of a conversation in the chat template, special and other added tokens,
those that the model's configs name, pieces that every text is made of, and all tokens that merges make on the
way to a kept one (`kick.compress.vocabulary`). A text that needs kept tokens alone is cut into the same
tokens, whose embeddings are the same: hidden states are the dense model's to the bit, and so are the logits
of kept tokens, if the library of matrices sums a row of the head alike however many rows there are. What
changes is the softmax: it has no mass for removed tokens, so that log-probabilities rise by -log of the mass
that the kept tokens had. Any other text is cut into more and shorter tokens, and is answered otherwise.

Each run checks this on the corpora: their text has to give the same tokens, and the first of them the same
logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, Corpora, calibration_of
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.compress.vocabulary import BytePairs
from kick.errors import CellFailed, KickError, WrongOption
from kick.model import blocks, linears
from kick.model.structure import device_of
from kick.registry import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = 64  # tokens of the corpora whose logits are compared
TOLERANCE = 1e-4  # of the largest logit, or 4 units of its type: fewer rows may be summed in another order
_IDS = ("suppress_tokens", "begin_suppress_tokens")  # lists of ids beside those that end in _token_id
_TEXTS = ("bad_words_ids", "force_words_ids", "sequence_bias", "forced_decoder_ids")


@method(
    "vocab",
    title="Vocabulary pruning",
    paper="after Yu et al., ACL 2024, arXiv 2401.03512",
    kind="structure",
    needs=("structure",),
    place=98,
    retokenises=True,
)
@dataclass(frozen=True)
class Vocab:
    """Tokens that corpora do not use are removed; embeddings, head and tokenizer shrink."""

    corpora: str = option("the names of the corpora whose tokens are kept, joined by +")
    digest: str = option("of the corpora's texts; filled in", "")

    @classmethod
    def complete(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options as given. Raises WrongOption for a corpus that does not exist."""
        from kick.compress.calibrate.corpus import CORPORA  # names alone: texts count by their digests

        for name in str(options.get("corpora", "")).split("+") if "corpora" in options else ():
            if name not in CORPORA:
                raise WrongOption(f"vocab: {unknown('corpus', name, CORPORA)}", "corpora")
        return options

    def check(self, model: nn.Module) -> None:
        """Raises KickError if more of the model than embedding and head depends on the vocabulary."""
        for block in blocks(model):
            linears(block)  # of weights that kick does not know the rest cannot be counted
        check_model(model)

    def forms(self, model: nn.Module) -> list[Form]:
        """An example of what the model becomes: with half of its tokens."""
        rows = _rows(model)
        kept = sorted({*range(max(1, rows // 2)), *_named(model, rows)})
        return [partial(narrow, places={old: new for new, old in enumerate(kept)})]

    @torch.no_grad()
    def __call__(self, model: Any, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        known, names = calibration.corpora, self.corpora.split("+")
        if known is None:
            raise KickError(
                "vocab rewrites the tokenizer, and none is known here; use `kick run`, `kick compress`, or "
                "compress_model with a model by its name or tokenizer=..."
            )
        own, rows = calibration.tokenizer or known.tokenizer, _rows(model)
        encoding = BytePairs.of(own)
        texts = _texts(known, names, self.digest)
        kept = encoding.closed({one for ids in texts.values() for one in ids} | _always(model, encoding))
        places = {old: new for new, old in enumerate(sorted(kept))}
        sequences = _renumbered(calibration, places)
        made = encoding.narrowed(places)
        probe = next(iter(texts.values()))[:PROBE]
        before = _logits(model, probe)
        narrow(model, places)
        difference = _checked(before, _logits(model, [places[one] for one in probe]), places)
        calibration.sequences, calibration.tokenizer = sequences, made
        for name, ids in texts.items():
            again = known.cut(name, made)
            if again != [places[one] for one in ids]:
                raise CellFailed(f"the rewritten tokenizer cuts the corpus {name} otherwise; it was not kept")
        calibration.note(
            "vocabulary", kept=_rows(model), of=rows, corpora=names, logit_difference=round(difference, 9)
        )


def check_model(model: Any) -> None:
    """Raises KickError if the vocabulary of a model cannot be pruned."""
    config, rows, head = model.config, _rows(model), model.get_output_embeddings()
    others = [name for name in vars(config) if "vocab_size" in name and name != "vocab_size"]
    refused = f"its config has {others[0]} besides vocab_size" if others else ""
    if not refused and getattr(config, "vocab_size", None) != rows:
        refused = f"its embedding has {rows} rows, and its config does not say so"
    if not refused and (not isinstance(head, nn.Linear) or head.weight.shape[0] != rows):
        refused = "its head is not a matrix with a row per token"
    generation = getattr(model, "generation_config", None)
    texts = [name for name in _TEXTS if getattr(generation, name, None)]
    if not refused and texts:
        refused = f"its generation config has {texts[0]}, which names texts by their ids"
    if refused:
        raise KickError(f"vocab cannot prune the vocabulary of {type(model).__name__}: {refused}")


def narrow(model: Any, places: Mapping[int, int]) -> None:
    """Leave of embedding and head the rows of the ids in `places`, and number ids in configs as it says."""
    rows, table, head = _rows(model), model.get_input_embeddings(), model.get_output_embeddings()
    kept = [old for old in sorted(places, key=places.__getitem__) if old < rows]
    index = torch.tensor(kept, device=table.weight.device)
    tied = head.weight is table.weight or head.weight.data_ptr() == table.weight.data_ptr() != 0
    table.weight = nn.Parameter(table.weight.data[index], requires_grad=False)
    rest = table.weight if tied else nn.Parameter(head.weight.data[index], requires_grad=False)
    head.weight = rest
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias.data[index], requires_grad=False)
    table.num_embeddings = head.out_features = model.config.vocab_size = len(kept)
    for module in model.modules():
        if vars(module).get("vocab_size") == rows:
            module.vocab_size = len(kept)
        if isinstance(vars(module).get("padding_idx"), int):
            module.padding_idx = places.get(module.padding_idx, module.padding_idx)
    for config in _configs(model):
        for name, ids in _ids_of(config):
            new = [places.get(one, one) for one in ids if one in places or name not in _IDS]
            setattr(config, name, new if isinstance(getattr(config, name), list) else new[0])


def _texts(known: Corpora, names: Sequence[str], digest: str) -> dict[str, list[int]]:
    """The ids of each corpus. Raises CellFailed if a text has another digest than when it was planned."""
    digests = digest.split("+") if digest else [""] * len(names)
    return {name: known.ids(name, one) for name, one in zip(names, digests, strict=True)}


def _always(model: Any, encoding: BytePairs) -> set[int]:
    """The ids that are kept whatever the corpora are."""
    named = _named(model, _rows(model))
    return encoding.added | encoding.pieces() | named | set(_conversation(encoding.tokenizer))


def _conversation(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a conversation as the chat template writes it, if there is one."""
    from kick.tasks.generation import takes_system  # brings lm-eval in

    if not tokenizer.chat_template:
        return []
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    if takes_system(tokenizer):
        turns.insert(0, {"role": "system", "content": "system"})
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _renumbered(calibration: Calibration, places: Mapping[int, int]) -> list[Tensor]:
    """Calibration sequences with other ids. Raises KickError if they need tokens that are removed."""
    gone = {one for ids in calibration for one in ids.flatten().tolist()} - places.keys()
    if gone:
        raise KickError(
            f"the calibration text needs {len(gone)} tokens that vocab removes; name its corpus "
            "in `corpora` too"
        )
    numbers = torch.zeros(max(places) + 1, dtype=torch.long)
    numbers[torch.tensor(list(places))] = torch.tensor(list(places.values()))
    return [numbers.to(ids.device)[ids] for ids in calibration]


def _logits(model: Any, ids: Sequence[int]) -> Tensor:
    """(tokens, vocabulary), in the model's type."""
    logits: Tensor = model(torch.tensor([list(ids)], device=device_of(model)), use_cache=False).logits[0]
    return logits


def _checked(before: Tensor, after: Tensor, places: Mapping[int, int]) -> float:
    """The largest difference of kept tokens' logits. Raises CellFailed if it is more than rounding."""
    kept = [old for old in sorted(places, key=places.__getitem__) if old < before.shape[1]]
    expected = before[:, torch.tensor(kept, device=before.device)]
    difference = float((after.float() - expected.float()).abs().max())
    tolerance = max(TOLERANCE, 4 * torch.finfo(before.dtype).eps)
    if not difference <= tolerance * float(expected.abs().max()):
        raise CellFailed(
            f"with fewer tokens the model gives logits that differ by {difference:g}: more of it than "
            "embedding and head depends on ids"
        )
    return difference


def _rows(model: Any) -> int:
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def _configs(model: Any) -> list[Any]:
    generation = getattr(model, "generation_config", None)
    return [model.config, *([] if generation is None else [generation])]


def _ids_of(config: Any) -> Iterator[tuple[str, list[int]]]:
    """The settings of a config that are ids of tokens, and the ids; of those that are set."""
    for name, value in list(vars(config).items()):
        if not name.endswith("_token_id") and name not in _IDS:
            continue
        ids = value if isinstance(value, list) else [value]
        if ids and all(isinstance(one, int) for one in ids):
            yield name, ids


def _named(model: Any, rows: int) -> set[int]:
    """The ids of the embedding that configs name; lists of suppressed ones aside."""
    found = {
        one for config in _configs(model) for name, ids in _ids_of(config) if name not in _IDS for one in ids
    }
    return {one for one in found if 0 <= one < rows}
