"""What can be compressed in a model: its blocks, and every weight matrix in them as (out, in).

Not every weight is an nn.Linear: GPT-2's Conv1D holds (in, out), experts are slices of 3-D parameters, and
Mamba's dt_proj is used without being called. `linears` gives all of them in one form and refuses a block
with a weight that it does not know, so that nothing is skipped silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kick.errors import KickError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Weights of two or more dimensions that are left dense in every architecture: the end of the name, and why.
EXCLUDED = {
    "gate.weight": "a router: a few rows that decide which expert sees a token",
    "gate.wg.weight": "a router",
    "router.weight": "a router",
    "router.classifier.weight": "a router",
    "shared_expert_gate.weight": "a router of one row",
    "conv1d.weight": "a depthwise convolution of four taps a channel",
    "conv.conv.weight": "a depthwise convolution of a few taps a channel (LFM2)",
    "weight_scale": "of a checkpoint that was quantized elsewhere",
    "weight_zero_point": "of a checkpoint that was quantized elsewhere",
    "A_log": "the state matrix of a state space model, not multiplied with activations",
}

SOURCE = "kick_experts"  # attribute of a module whose experts are read one at a time: `kick.model.experts`
PACKED = "kick_packed"  # attribute of a module whose weight is in a format of another library: the format


@dataclass(frozen=True, eq=False)
class Linear:
    """One weight matrix of a block: `name` is its path there, `expert` the slice of a 3-D parameter."""

    name: str
    module: nn.Module
    parameter: str = "weight"
    expert: int | None = None

    @property
    def weight(self) -> Tensor:
        """A view (out, in) of the parameter itself: writing into it changes the model."""
        if self.expert is not None:
            return expert_weight(self.module, self.parameter, self.expert)
        data = getattr(self.module, self.parameter).data
        return data.t() if isinstance(self.module, Conv1D) else data

    @property
    def bias(self) -> Tensor | None:
        """(out,), or None."""
        return getattr(self.module, "bias", None) if self.expert is None else None

    @property
    def called(self) -> bool:
        """Whether the module is called with the matrix's input, so that a hook sees and may change it."""
        return self.expert is None and not _is_time_step(self.module, self.name)

    def put(self, weight: Tensor) -> None:
        """Give the matrix other values, (out, in) of any dtype.

        The parameter gets memory of its own where it can: writing into pages of the checkpoint's file would
        first copy each of them.
        """
        held = getattr(self.module, self.parameter)
        if self.expert is not None or weight.device != held.device:
            self.weight.copy_(weight)
            return
        data = weight.t() if isinstance(self.module, Conv1D) else weight
        held.data = data.to(held.dtype, memory_format=torch.contiguous_format, copy=True)

    def set_weight(self, weight: Tensor) -> None:
        """Put a matrix (out', in') of any shape in place of the old one. Not for experts."""
        if self.expert is not None:
            raise ValueError(f"{self.name} is a slice of a parameter shared with other experts")
        data = weight.t() if isinstance(self.module, Conv1D) else weight
        setattr(self.module, self.parameter, nn.Parameter(data.contiguous(), requires_grad=False))


def expert_weight(module: nn.Module, parameter: str, expert: int) -> Tensor:
    """An expert's matrix (out, in): a slice of the parameter, or read from where the experts are."""
    source = getattr(module, SOURCE, None)
    held = getattr(module, parameter).data
    return held[expert] if source is None else source.weight(parameter, expert)


def block_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The path and the list of the decoder layers. Raises KickError if the model has none."""
    count = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise KickError(
        f"{type(model).__name__} has no list of {count} blocks: kick compresses decoder-only models "
        "whose layers are in one nn.ModuleList"
    )


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder layers in order."""
    return list(block_list(model)[1])


def linears(block: nn.Module, skip_packed: bool = False) -> list[Linear]:
    """Every weight matrix of a block, in the order of its parameters, each expert by itself.

    Args:
        skip_packed: leave out matrices that another library keeps in its own format, do not refuse them; give
            weights of forms that no method compresses (experts with biases) too, to be counted.

    Raises:
        KickError: the block has a weight that is neither known nor in EXCLUDED.
    """
    packed = {name: module for name, module in block.named_modules() if hasattr(module, PACKED)}
    if packed and not skip_packed:
        name, module = next(iter(packed.items()))
        raise KickError(
            f"{name} is a {type(module).__name__}, whose weights another library keeps in its own format "
            f"({getattr(module, PACKED)}); such a model can be evaluated, not compressed further"
        )
    found: list[Linear] = []
    for path, parameter in block.named_parameters():
        if path.rpartition(".")[0] in packed:
            continue
        if parameter.ndim < 2 or any(path == end or path.endswith("." + end) for end in EXCLUDED):
            continue
        owner, _, leaf = path.rpartition(".")
        module = block.get_submodule(owner)
        if leaf == "weight" and isinstance(module, (nn.Linear, Conv1D)):
            found.append(Linear(owner, module))
        elif is_experts(module) and leaf in ("gate_up_proj", "down_proj"):
            found += [Linear(f"{owner}.{e}.{leaf}", module, leaf, e) for e in range(parameter.shape[0])]
        elif skip_packed and parameter.ndim == 3:
            found += [Linear(f"{path}.{e}", module, leaf, e) for e in range(parameter.shape[0])]
        elif skip_packed and not leaf.endswith("bias"):
            found.append(Linear(path.removesuffix(".weight"), module, leaf))
        elif not skip_packed:
            raise KickError(
                f"the weight {path} {tuple(parameter.shape)} of {type(module).__name__} is of a form that "
                "kick does not compress (it knows nn.Linear, Conv1D, and experts as Mixtral's, without "
                "biases); measure this model dense, or choose a model of another architecture"
            )
    return found


See = Callable[[Linear, Tensor], None]


def hidden_of(output: Tensor | tuple) -> Tensor:
    """The hidden states that a block gives; some architectures give attention weights after them."""
    return output[0] if isinstance(output, tuple) else output


def peculiar(options: Mapping[str, Any]) -> list[str]:
    """Which of the options that a model gives its attention function make it more than plain attention."""
    return [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]


@contextmanager
def attending(model: nn.Module, name: str, instead_of: str | None = None) -> Iterator[None]:
    """Within it the model's attention is the registered one of that name; afterwards it is as it was.

    instead_of: only where the attention has this name; None anywhere.
    """
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = [(c, c._attn_implementation) for c in configs.values()]
    before = [(c, old) for c, old in before if instead_of in (None, old)]
    for config, _ in before:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, old in before:
            config._attn_implementation = old


@contextmanager
def watch(
    block: nn.Module, wanted: Sequence[Linear], see: Callable[[Linear, Tensor], None], gated: bool = False
) -> Iterator[None]:
    """While open, `see(linear, input)` is called with each matrix's input, (..., in), as the block runs.

    Matrices that share an input get the same tensor object. An expert that no token is sent to is not seen.

    gated: an expert's inputs are multiplied by the router's weight of their token, in float32.
    """
    handles = []
    try:
        for linear in wanted:
            if linear.called:
                hook = _call_hook(linear, see)
                handles.append(linear.module.register_forward_pre_hook(hook, with_kwargs=True))
            elif linear.expert is None:
                mixer = block.get_submodule(linear.name.rpartition(".")[0])
                name = "dt_layernorm" if hasattr(mixer, "dt_layernorm") else "x_proj"  # FalconMamba norms it
                source = mixer.get_submodule(name)
                handles.append(source.register_forward_hook(_time_step_hook(linear, see)))
        for module in {id(item.module): item.module for item in wanted if item.expert is not None}.values():
            mine = {(x.expert, x.parameter): x for x in wanted if x.module is module and x.expert is not None}
            handles.append(module.register_forward_pre_hook(_experts_hook(mine, see, gated)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call_hook(linear: Linear, see: See) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(linear, args[0] if args else next(iter(kwargs.values())))

    return hook


def _time_step_hook(linear: Linear, see: See) -> Callable[..., None]:
    """Mamba multiplies with dt_proj.weight itself; the factor is the first columns of what comes out here."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        see(linear, output[..., : linear.weight.shape[1]])

    return hook


def _experts_hook(mine: dict[tuple[int, str], Linear], see: See, gated: bool) -> Callable[..., None]:
    """The inputs of each expert's two matrices, from the tokens that the router sends to it."""

    def hook(module: Any, args: tuple[Any, ...]) -> None:
        hidden, chosen = args[0], args[1]  # (tokens, in), (tokens, k)
        for expert in sorted({number for number, _ in mine}):
            rows = (chosen == expert).any(dim=-1)
            if not rows.any():
                continue
            state = hidden[rows]
            factor = _router_weight(args, expert)[rows] if gated else None
            if (expert, "gate_up_proj") in mine:
                see(mine[expert, "gate_up_proj"], _times(state, factor))
            if (expert, "down_proj") in mine:
                gate, up = nn.functional.linear(state, expert_weight(module, "gate_up_proj", expert)).chunk(
                    2, dim=-1
                )
                see(mine[expert, "down_proj"], _times(module.act_fn(gate) * up, factor))

    return hook


def _router_weight(args: tuple[Any, ...], expert: int) -> Tensor:
    """(tokens, 1): the weight of an expert for each token, of the arguments that experts are called with."""
    return (args[2].float() * (args[1] == expert)).sum(dim=-1, keepdim=True)


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x.float() * factor


def is_experts(module: nn.Module) -> bool:
    """Experts as Mixtral and Qwen3-MoE hold them: gate_up_proj (E, 2I, H), down_proj (E, H, I), no biases."""
    up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if not (isinstance(up, nn.Parameter) and isinstance(down, nn.Parameter) and up.ndim == down.ndim == 3):
        return False
    experts, double, hidden = up.shape
    return down.shape == (experts, hidden, double // 2) and len(list(module.parameters(recurse=False))) == 2


def _is_time_step(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and name.endswith("mixer.dt_proj")


def named_linears(model: nn.Module, skip_packed: bool = False) -> Iterator[tuple[str, int, Linear]]:
    """Every weight matrix of the blocks, in order: its full name, the number of its block, the matrix.

    The name is the path of the list of blocks, the block's number, and `Linear.name`. See `linears`.
    """
    path, modules = block_list(model)
    for index, block in enumerate(modules):
        for linear in linears(block, skip_packed):
            yield f"{path}.{index}.{linear.name}", index, linear


def skeleton(config: PretrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model of a configuration without its weights: shapes on torch's meta device.

    Raises what transformers raises for a configuration of which it makes no causal language model.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        given = {} if dtype is None else {"dtype": dtype}
        return AutoModelForCausalLM.from_config(config, **given, trust_remote_code=False)


def check_called(model: nn.Module, method: str) -> None:
    """Raises KickError if a matrix is used without a call of its module: hooks cannot serve it."""
    for block in blocks(model):
        for linear in linears(block):
            if not linear.called:
                raise KickError(
                    f"{method} changes the input or output of a matrix while the model runs, but "
                    f"{linear.name} of {type(model).__name__} is used without a call; "
                    "choose a weight-only method"
                )


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next(model.parameters()).device
