"""Whether what a recipe makes of a model runs and can be saved: tried before the work, on an empty copy.

A method that changes a model's form says which forms the result may have: `forms(model)` gives functions
that change a model in place. Each is given to a twin, a copy of the model without weights on torch's meta
device: it must run if the dense twin does, and the model that transformers makes of its saved config must
have the same tensors and the same settings in each module. No architecture is known here by name.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from kick.errors import KickError
from kick.model import blocks, skeleton
from kick.model.source import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Form = Callable[[nn.Module], None]  # changes a model in place, without looking at its weights
_PLAIN = (bool, int, float, str, type(None))
# What is equal in all copies of a model, or is one object in them
_ONE = (*_PLAIN, set, type, FunctionType, BuiltinFunctionType, torch.dtype, torch.device)
_OWN = {"training", "name_or_path"}  # attributes that say nothing of what a module computes
# What a model raises whose config does not fit its blocks, and transformers at a config that it does not take
_WRONG = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, StrictDataclassError)


def twin_of(model: nn.Module) -> nn.Module:
    """A copy of a model with all its settings and no weights, on the meta device."""
    known: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        known[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, known)


def forms_of(model: nn.Module, methods: Sequence[Any]) -> Iterator[tuple[Form, ...]]:
    """Each combination of forms that a recipe's methods may give a model; an empty one if none does."""
    each = [tuple(method.forms(model)) for method in methods if hasattr(method, "forms")]
    yield from product(*each)


def shaped(model: nn.Module, forms: Sequence[Form]) -> PreTrainedModel:
    """A twin of a model in the given forms, one after the other."""
    twin = twin_of(model)
    for place, block in enumerate(blocks(twin)):
        vars(block)["kick_place"] = place  # where it stood in the model
    for form in forms:
        form(twin)
    return twin


def check_runs(model: nn.Module, methods: Sequence[Any]) -> None:
    """Raises KickError if the model runs, but not in a form that methods may give it.

    A model that cannot run without weights, for what it computes decides what it does next, is not judged.
    """
    if not any(hasattr(method, "forms") for method in methods):
        return
    met: list[Any] = []
    judged = True
    for forms in forms_of(model, methods):
        twin = shaped(model, forms)
        failure = _misplaced(model, twin)
        if failure is None and judged and _new(twin, met) and (wrong := _failure(twin)) is not None:
            judged = _failure(twin_of(model)) is None  # asked only now: nearly every model runs
            failure = wrong if judged else None
        if failure is not None:
            raise KickError(
                f"{type(model).__name__} does not run in the form that this recipe gives it ({failure}): its "
                "config or other parts of it count on the whole; choose a method that keeps blocks and widths"
            )


def check_saved(model: nn.Module, methods: Sequence[Any]) -> None:
    """Raises KickError if transformers would make another model of the saved result."""
    met: list[Any] = []
    for forms in forms_of(model, methods):
        twin = shaped(model, forms)
        difference = _difference(twin, _reloaded(twin)) if _new(twin, met) else None
        if difference is not None:
            raise KickError(
                f"the result would not be a checkpoint: from its config transformers makes another model "
                f"({difference}); measure it with `kick run`, or choose a method that keeps the form"
            )


def _new(twin: nn.Module, met: list[Any]) -> bool:
    """Whether a twin differs from all that were met before; it is added to them.

    Of blocks that are alike it makes no difference which are dropped, and a large model has many choices.
    """
    said = [(name, type(one), _said(vars(one), twin)) for name, one in twin.named_modules()]
    whole = (_said(vars(twin.config), twin), said)
    if whole in met:
        return False
    met.append(whole)
    return True


def _said(value: Any, twin: nn.Module) -> Any:
    """A module's attributes in a form that is equal in two twins only if these compute the same."""
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if name not in ("_modules", "kick_place")}
        # hooks have numbers that count on through the process
        return {k: _said([*v.values()] if "_hooks" in str(k) else v, twin) for k, v in kept.items()}
    if isinstance(value, list | tuple):
        return [_said(one, twin) for one in value]
    if isinstance(value, Tensor):
        return (value.shape, value.dtype)
    if value is twin.config:
        return PretrainedConfig
    if isinstance(value, PretrainedConfig | GenerationConfig):
        return _said(vars(value), twin)
    if isinstance(value, partial):
        return _said([value.func, value.args, value.keywords], twin)
    return value if isinstance(value, _ONE) else object()  # of another thing nothing is known


def _reloaded(twin: PreTrainedModel) -> PreTrainedModel:
    """The empty model that transformers makes of the twin's saved config."""
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            twin.config.save_pretrained(folder)
            config = AutoConfig.from_pretrained(Path(folder), trust_remote_code=False)
            return skeleton(config)
    except _WRONG as error:
        raise KickError(
            "the result would not be a checkpoint: "
            f"{type(twin.config).__name__} does not describe it: {error}"
        ) from error


def _difference(twin: nn.Module, again: nn.Module) -> str | None:
    """The first thing in which two models differ, or None: tensors by name and shape, settings of modules."""
    ours, theirs = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (twin, again))
    for name, shape in ours.items():
        if name not in theirs:
            return f"it has no {name}"
        if theirs[name] != shape:
            return f"{name} has shape {theirs[name]}, not {shape}"
    if lost := sorted(set(theirs) - set(ours)):
        return f"it has {lost[0]} besides"
    modules = dict(again.named_modules())
    for name, module in twin.named_modules():
        settings = _settings(modules[name]) if name in modules else {}
        for key, value in _settings(module).items():
            if key in settings and settings[key] != value:
                return f"{name or 'the model'} has {key} {settings[key]!r}, not {value!r}"
    return None


def _settings(module: nn.Module) -> dict[str, Any]:
    """A module's attributes that are plain values."""
    own = vars(module).items()
    return {k: v for k, v in own if not k.startswith("_") and k not in _OWN and isinstance(v, _PLAIN)}


@torch.no_grad()
def _failure(twin: PreTrainedModel) -> str | None:
    """What the twin raises as it runs on a few tokens, or None."""
    ids = torch.zeros((1, 8), dtype=torch.long, device="meta")
    mask = torch.zeros((1, 1, 8, 8), dtype=twin.dtype, device="meta")  # given: what makes one looks at values
    try:
        twin(ids, attention_mask=mask, use_cache=False)
    except _WRONG as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return None


def _misplaced(model: PreTrainedModel, twin: PreTrainedModel) -> str | None:
    """A list of the config with the kind of each block that follows from a block's number by other settings,
    so that it names other kinds than there are; or None."""
    before, after = model.config, twin.config
    for name in dir(type(before)):
        if not isinstance(getattr(type(before), name, None), property):
            continue
        old, new = getattr(before, name, None), getattr(after, name, None)
        if not isinstance(old, list | tuple) or len(old) != before.num_hidden_layers:
            continue
        if [old[vars(block)["kick_place"]] for block in blocks(twin)] != list(new or ()):
            return f"{name} follows from a block's number"
    return None
