"""A checkpoint larger than memory: its model on torch's meta device, filled with weights part by part.

    layered = Layered(folder, "float32")
    with layered.outside(rows):             # embeddings (these rows of them), rotations, norms
        ...                                 # everything but the blocks can run
    layered.load(0); ...; layered.drop(0)   # a block's weights are there in between

Names and forms are transformers' own work: its loader is given one part of the file at a time, so that what
a block holds is bit for bit what `from_pretrained` would have put there.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.modeling_utils import LoadStateDictConfig

from kick import paths
from kick.errors import KickError
from kick.model import elsewhere, experts, textual
from kick.model.packed import product
from kick.model.source import UNREADABLE, quiet
from kick.model.stored import EmptyTensor, StoredTensor, stored
from kick.model.structure import block_list, skeleton
from kick.model.unpacking import unpacking
from kick.paths import EXPERTS

ROWS = 4096  # of the head that are read at a time
OUTSIDE = -1  # the part that is not in any block


class Layered:
    """The blocks of a checkpoint, one at a time.

    Attributes:
        model: in eval mode; weights that are not loaded are on the meta device.
        path, modules: of the list of blocks.
        dtype: of the stored matrices of its blocks, by their bytes.
        device: where weights are put.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        packed: bool = False,
        whole: int | None = None,
    ):
        """Raises KickError for a checkpoint that transformers cannot load, or that is not whole.

        packed: read compressed-tensors' packed format too. whole: bytes up to which a block's experts are
        in memory together, EXPERTS by default; larger ones are read one at a time, see `experts`.
        """
        self.folder, self.device, self.working, self.packed = folder, torch.device(device), dtype, packed
        self.stored = stored(folder)
        try:
            with quiet():
                self._build(dtype)
        except KickError:
            raise
        except UNREADABLE as error:
            raise KickError(
                f"transformers cannot load {folder} as a causal language model: "
                f"{error if str(error) else type(error).__name__}"
            ) from error
        self.path, self.modules = block_list(self.model)
        self.tried: Any = None  # what an engine found out about the model by running its first blocks
        self._sort()
        self._apart(EXPERTS if whole is None else whole)
        self._held: dict[int, list[tuple[dict[str, Any], str, Any]]] = {}

    def _build(self, dtype: torch.dtype) -> None:
        """The empty model, as `from_pretrained` leaves it beside the weights."""
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        if (method := elsewhere.method_of(config)) is not None:
            if method != "compressed-tensors" or not self.packed:
                raise Whole(f"{self.folder} is quantized with {method}: it is not read block by block")
            self.stored = unpacking(self.stored, vars(config).pop("quantization_config"))
        options = textual.load_options(config)
        self.model: PreTrainedModel = skeleton(options.get("config", config), dtype)
        mapping = get_model_conversion_mapping(self.model, options.get("key_mapping"), None) or []
        plan = self.model._get_dtype_plan(dtype)
        how = LoadStateDictConfig(
            device_map={"": "meta"}, dtype=dtype, dtype_plan=plan, weight_mapping=mapping
        )
        self.how = replace(how, device_map={"": str(self.device)})
        empty = {name: EmptyTensor(one) for name, one in self.stored.items()}
        info, _ = convert_and_load_state_dict_in_model(self.model, empty, how)
        if info.conversion_errors or info.mismatched_keys:
            wrong = sorted(info.conversion_errors or [name for name, *_ in info.mismatched_keys])
            raise ValueError(f"{wrong[0]} does not have the form that the config says")
        level = logging.getLogger("transformers.modeling_utils")
        before = level.level
        level.setLevel(logging.ERROR)  # what is missing or left is told below
        try:
            PreTrainedModel._finalize_model_loading(self.model, self.how, info)
        finally:
            level.setLevel(before)
        if missing := sorted(info.missing_keys):
            raise KickError(
                f"{self.folder} lacks {missing[0]}, which its config says it has: the checkpoint is not whole"
            )
        textual.settled(self.model, options, info.unexpected_keys)
        self.reverted = self.model._weight_conversions
        for name, buffer in self.model.named_non_persistent_buffers():
            owner, _, leaf = name.rpartition(".")
            self.model.get_submodule(owner)._buffers[leaf] = buffer.to(self.device)
        self.model.eval().requires_grad_(False)
        if (self.folder / "generation_config.json").is_file():
            self.model.generation_config = GenerationConfig.from_pretrained(self.folder)

    def _sort(self) -> None:
        """Which stored tensors belong to which part, and what each parameter is made of."""
        mapping = self.how.weight_mapping
        renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
        converters = [one for one in mapping if isinstance(one, WeightConverter)]
        known, prefix = self.model.state_dict(), self.model.base_model_prefix
        self.parts: dict[int, dict[str, StoredTensor]] = defaultdict(dict)
        self.sources: dict[str, list[experts.Part]] = defaultdict(list)  # by the parameter's own name
        self.plain: dict[str, str] = {}  # parameter -> the one stored tensor that it is
        for key, one in self.stored.items():
            name, pattern = rename_source_key(key, renamings, converters, prefix, known)
            if name not in known and key in known:
                name, pattern = rename_source_key(key, [], [], prefix, known)
            if name not in known:
                continue
            self.parts[self.part_of(name)][key] = one
            self.sources[name].append((key, pattern, one))
            if pattern is None and one.shape == tuple(known[name].shape):
                self.plain[name] = key
        sizes: Counter[torch.dtype] = Counter()
        for index in range(len(self.modules)):
            for one in self.parts[index].values():
                sizes[one.dtype] += one.nbytes
        self.dtype = sizes.most_common(1)[0][0]

    def _apart(self, whole: int) -> None:
        """Which blocks have their experts read one at a time."""
        self.experts: dict[int, dict[str, experts.Pieces]] = {}  # by block and the module's name in it
        self.opened: dict[int, list[experts.Experts]] = {}  # of blocks that are there
        converters = [one for one in self.how.weight_mapping if isinstance(one, WeightConverter)]
        for index, block in enumerate(self.modules):
            found = experts.found(block, f"{self.path}.{index}", self.sources, converters)
            size = sum(
                getattr(block.get_submodule(name), leaf).numel()
                for name, one in found.items()
                for leaf in one
            )
            if found and size * self.working.itemsize > whole:
                self.experts[index] = found

    def _apart_keys(self, index: int) -> set[str]:
        """The stored tensors of a block that are not read with it."""
        pieces = [one for parts in self.experts.get(index, {}).values() for one in parts.values()]
        return {piece.key for parts in pieces for expert in parts for piece in expert}

    def part_of(self, name: str) -> int:
        """The number of the block that a parameter is in, OUTSIDE for none."""
        number = name.removeprefix(f"{self.path}.").partition(".")[0]
        return int(number) if name.startswith(f"{self.path}.") and number.isdigit() else OUTSIDE

    def dtype_of(self, name: str) -> torch.dtype:
        """The type in which a parameter of the model is stored."""
        return self.sources[name][0][2].dtype if self.sources.get(name) else self.dtype

    # ---------------------------------------------------------------------------------- weights

    def load(self, index: int) -> nn.Module:
        """Read a block's weights; the block."""
        apart, block = self._apart_keys(index), self.modules[index]
        self._fill({key: one for key, one in self.parts[index].items() if key not in apart}, index, block)
        if index in self.experts:
            self._open(index, block)
        return block

    def _open(self, index: int, block: nn.Module) -> None:
        """Have the block's experts read as they are asked for."""
        like = torch.empty(0, dtype=self.working, device=self.device)
        scratch = paths.offload_folder() or paths.cache_root() / "experts"
        self.opened[index] = [
            experts.Experts(block.get_submodule(name), name, pieces, like, scratch)
            for name, pieces in self.experts[index].items()
        ]
        for one in self.opened[index]:
            one.open()

    def drop(self, part: int) -> None:
        """Let a part's weights go."""
        for one in self.opened.pop(part, []):
            one.close()
        for table, leaf, empty in self._held.pop(part, []):
            table[leaf] = empty

    def drop_all(self) -> None:
        """Let all weights go."""
        for part in list(self._held):
            self.drop(part)

    @contextmanager
    def outside(
        self, rows: Iterable[int], head: bool = False, rounded: torch.dtype | None = None
    ) -> Iterator[PreTrainedModel]:
        """Within it everything outside the blocks has its weights: of the embedding these rows, the rest of
        it zeros; the head's only if it is asked for. `rounded`: as a type holds them."""
        top, bottom = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        names = {id(one): name for name, one in self.model.named_parameters()}
        last, first = (names.get(id(one.weight)) if one is not None else None for one in (top, bottom))
        given: dict[str, Any] = dict(self.parts[OUTSIDE])
        if rounded is not None:
            given = {key: one.as_held(rounded) for key, one in given.items()}
        if first in self.plain and not (head and last == first):
            key = self.plain[first]
            given[key] = given[key].rows(rows, self.working)
        if not head and last != first and last in self.plain:
            del given[self.plain[last]]
        tied = self.model.all_tied_weights_keys
        self._fill(given, OUTSIDE, self.model)
        for target, source in tied.items():
            owner, _, leaf = target.rpartition(".")
            table = self.model.get_submodule(owner)._parameters
            self._held[OUTSIDE].append((table, leaf, table[leaf]))
            table[leaf] = self.model.get_parameter(source)
        try:
            yield self.model
        finally:
            self.drop(OUTSIDE)

    def _fill(self, given: Mapping[str, Any], part: int, root: nn.Module) -> None:
        """Have transformers put stored tensors into the model; what was there before is kept for `drop`."""
        inner = self.modules if root is self.model else ()
        blocks = {id(module) for block in inner for module in block.modules()}
        held = self._held[part] = []
        for module in root.modules():
            if id(module) in blocks:
                continue
            for table in (module._parameters, module._buffers):
                held += [(table, leaf, one) for leaf, one in table.items() if one is not None and one.is_meta]
        try:
            with quiet():
                info, _ = convert_and_load_state_dict_in_model(self.model, dict(given), self.how)
        finally:
            self.model._weight_conversions = self.reverted
        if info.conversion_errors:
            raise KickError(f"{self.folder}: {sorted(info.conversion_errors)[0]} cannot be read")
        for table, leaf, _ in held:
            if isinstance(loaded := table[leaf], nn.Parameter):
                loaded.requires_grad_(False)

    # ---------------------------------------------------------------------------------- names

    def own(self, part: int) -> dict[str, Tensor]:
        """The tensors of a part that a checkpoint holds, by the model's names, tied ones once, and no experts
        that are read one at a time."""
        ignored = set(self.model._keys_to_ignore_on_save or ()) | self.model.all_tied_weights_keys.keys()
        found = self.model.state_dict()
        mine = {name: one for name, one in found.items() if self.part_of(name) == part}
        apart = {
            f"{self.path}.{part}.{name}.{leaf}"
            for name, one in self.experts.get(part, {}).items()
            for leaf in one
        }
        return {name: one for name, one in mine.items() if name not in ignored | apart}

    def as_saved(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the model's names -> by those of the file that transformers would save."""
        self.model._weight_conversions = self.reverted
        return revert_weight_conversion(self.model, tensors)

    # ---------------------------------------------------------------------------------- runs

    def put(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Give a block these weights, by the model's names, in place of those of the file."""
        held = self._held[index] = []
        for name, tensor in tensors.items():
            owner, _, leaf = name.rpartition(".")
            module = self.model.get_submodule(owner)
            table = module._parameters if leaf in module._parameters else module._buffers
            held.append((table, leaf, table[leaf]))
            tensor = tensor.to(self.device)
            table[leaf] = nn.Parameter(tensor, False) if table is module._parameters else tensor

    @torch.no_grad()
    def logits(self, ids: Tensor, output: Any, rounded: torch.dtype | None = None) -> Tensor:
        """The logits (T, V) on the CPU that follow from what the last block gives on ids (1, T).

        The head is read in slices, if its weight is one stored matrix. `rounded`: with what is outside the
        blocks as a type holds it.
        """
        with self.beside_blocks(ids.flatten().tolist(), rounded) as model:
            try:
                for block in self.modules:
                    vars(block)["forward"] = lambda *_args, **_options: output
                return model(ids.to(self.device), use_cache=False).logits[0].float().cpu()
            finally:
                for block in self.modules:
                    vars(block).pop("forward", None)

    @contextmanager
    def beside_blocks(
        self, rows: Iterable[int], rounded: torch.dtype | None = None
    ) -> Iterator[PreTrainedModel]:
        """Within it the model computes with what is outside its blocks, see `outside`. The head is read in
        slices whenever it is called, if its weight is one stored matrix."""
        head, stored = self.model.get_output_embeddings(), self._head()
        if stored is not None and rounded is not None:
            stored = stored.as_held(rounded)
        with self.outside(rows, head=stored is None, rounded=rounded) as model:
            if stored is None:
                yield model
                return
            vars(head)["forward"] = partial(self._sliced, stored, head.bias)
            try:
                yield model
            finally:
                del head.forward

    def head(self) -> tuple[Tensor, Tensor | None]:
        """The head's weight (V, H) in the type that is computed with, and its bias.

        Stored matrices are read in slices: beside what is made there is only one of them.
        """
        top = self.model.get_output_embeddings()
        weight, bias = self._head(), self._head("bias")
        if weight is not None and (bias is not None or getattr(top, "bias", None) is None):
            return self._whole(weight), None if bias is None else self._whole(bias)
        with self.outside((), head=True):
            return top.weight.data, getattr(top, "bias", None)

    @property
    def one_head(self) -> bool:
        """Whether the head's weight is one stored matrix."""
        return self._head() is not None

    def _head(self, leaf: str = "weight") -> StoredTensor | None:
        """The stored tensor that is the head's weight or bias; None if there is none, or several make it."""
        top = self.model.get_output_embeddings()
        names = {id(one): name for name, one in self.model.named_parameters()}
        return self.stored.get(self.plain.get(names.get(id(getattr(top, leaf, None)), ""), ""))

    def product(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) times the head's weight, plus its bias: (..., V). The weight is one stored
        matrix, read in slices."""
        weight = self._head()
        if weight is None:
            raise RuntimeError("the head's weight is made of several stored tensors")
        return self._sliced(weight, self.bias(), hidden)

    def products(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions from hidden states (..., H) to the head's products (..., rows), each of a slice of the
        vocabulary. Beside what they hold only a slice of the weight is there, which is one stored matrix."""
        weight = self._head()
        if weight is None:
            raise RuntimeError("the head's weight is made of several stored tensors")
        return [product(part.to(self.device, self.working)) for part in weight.slices(ROWS)]

    def bias(self) -> Tensor | None:
        """The head's bias (V,), if its weight is one stored matrix and it has one."""
        bias = self._head("bias")
        return None if bias is None else self._whole(bias)

    def _whole(self, stored: StoredTensor) -> Tensor:
        made = torch.empty(stored.shape, dtype=self.working, device=self.device)
        for place, part in enumerate(stored.slices(ROWS)):
            made[place * ROWS : place * ROWS + len(part)] = part
        return made

    def _sliced(self, stored: StoredTensor, bias: Tensor | None, hidden: Tensor) -> Tensor:
        """The product with a stored weight (V, H), and its bias."""
        rows = (part.to(self.device, self.working) for part in stored.slices(ROWS))
        product = torch.cat([nn.functional.linear(hidden, part) for part in rows], dim=-1)
        return product if bias is None else product + bias


class Whole(KickError):
    """A checkpoint that is only read as a whole."""
