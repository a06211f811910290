"""How far a variant is from the dense model on the dense model's own continuation (arXiv 2311.01544).

One teacher-forced pass over prefix + continuation y of length N gives every number:
fdt      first position of y whose argmax differs, N if none
sdt      share of positions of y whose argmax differs
agreement  share of positions where the argmax is the dense model's argmax
kl_*     KL(dense || variant) in nats per token: mean, median, 99 % quantile, maximum
dppl     the variant's perplexity on y
margin   dense top-1 minus top-2 logit at the first divergent position: small for a tie; NaN if none
length   N
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kick.engine.network import Network

NAMES = ("fdt", "sdt", "agreement", "kl_mean", "kl_median", "kl_p99", "kl_max", "dppl", "margin", "length")


@dataclass(frozen=True)
class Said:
    """What the dense model says at n positions: log-probabilities and probabilities (n, V), the argmax (n,),
    and by how much its logit leads (n,)."""

    logs: Tensor
    shares: Tensor
    best: Tensor
    margin: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Said:
        """From logits (n, V)."""
        top, logs = logits.topk(2, dim=-1), logits.log_softmax(-1)
        return cls(logs, logs.exp(), top.indices[:, 0], top.values[:, 0] - top.values[:, 1])

    def kl(self, logs: Tensor) -> Tensor:
        """KL(dense || variant) in nats at each position (n,); the variant's `logs` (n, V) are overwritten."""
        return torch.sub(self.logs, logs, out=logs).mul_(self.shares).sum(-1)


@torch.inference_mode()
def measure(
    network: Network,
    hidden: Tensor | None,
    tokens: Sequence[int],
    dense: Tensor | None,
    say: Callable[[Tensor], Said] | None,
) -> tuple[dict[str, float], tuple[int, ...]]:
    """The numbers above, NaN for those that need the dense model where it is not known, all but the length
    where the variant's logits are; and the variant's own greedy tokens, as far as the pass tells them: up to
    the first that differs.

    Args:
        hidden: the variant's hidden states (N, H) that predict the tokens; None if there are none.
        tokens: the dense continuation, N ids.
        dense: the dense model's hidden states (N, H).
        say: what the dense model says at such states; who measures several variants may remember it.
    """
    values = dict.fromkeys(NAMES, math.nan) | {"fdt": 0.0, "length": float(len(tokens))}
    if hidden is None or not tokens:
        return values, ()
    targets = torch.tensor(tokens, device=hidden.device)
    best, nll, divergence, dense_best, margins = [], [], [], [], []
    for part, logits in network.chunks(hidden):
        best.append(logits.argmax(-1))
        logs = logits.log_softmax(-1)
        nll.append(-logs.gather(1, targets[part, None])[:, 0])
        if dense is not None and say is not None:
            said = say(dense[part].to(hidden.device))
            dense_best.append(said.best)
            margins.append(said.margin)
            divergence.append(said.kl(logs))
    mean = float(torch.cat(nll).double().mean())
    if math.isnan(mean):  # the variant computes no numbers: it agrees with nothing, and differs from nothing
        return values | {"fdt": math.nan}, ()
    found = torch.cat(best)
    wrong = found != targets
    first = int(wrong.nonzero()[0]) if bool(wrong.any()) else len(tokens)
    values["fdt"] = float(first)
    values["sdt"] = float(wrong.double().mean())
    values["dppl"] = math.exp(mean)
    if divergence:
        kl = torch.cat(divergence).double().clamp(min=0)
        values["agreement"] = float((found == torch.cat(dense_best)).double().mean())
        values |= {"kl_mean": float(kl.mean()), "kl_median": float(kl.median()), "kl_max": float(kl.max())}
        values["kl_p99"] = float(kl.quantile(0.99))
        if first < len(tokens):
            values["margin"] = float(torch.cat(margins)[first])
    return values, tuple(found[: first + 1].tolist())
