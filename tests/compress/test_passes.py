"""A step's `passes` against a counter of what modules are really called."""

import pytest
import torch
from transformers.models.llama import modeling_llama
from transformers.models.mixtral import modeling_mixtral

from kick.compress import canonical, compress
from kick.compress.context import Calibration
from kick.compress.method import methods
from kick.compress.sliced import SlicedBlock
from tests.compress.test_every_method import REFUSED, recipe, served_by
from tests.support.architectures import ARCHITECTURES, sequences, tiny

WHOLE = (modeling_llama.LlamaForCausalLM, modeling_mixtral.MixtralForCausalLM)
BLOCKS = (modeling_llama.LlamaDecoderLayer, modeling_mixtral.MixtralDecoderLayer, SlicedBlock)
COUNTED = [  # of those that an architecture with attention serves
    name
    for name in methods
    if methods[name].calibrated
    and not methods[name].blockwise
    and not methods[name].trains  # a run gives the text
    and set(REFUSED.get(name, ())) < set(ARCHITECTURES)
]


class Counter:
    """Counts sequences through whole models, through single blocks outside of these, and backward."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.whole = self.single = self.backward = 0
        self.inside = False
        for cls in WHOLE:
            patch.setattr(cls, "forward", self._whole(cls.forward))
        for cls in BLOCKS:
            patch.setattr(cls, "forward", self._block(cls.forward))
        back = torch.Tensor.backward

        def backward(tensor, *args, **kwargs):
            self.backward += 1
            return back(tensor, *args, **kwargs)

        patch.setattr(torch.Tensor, "backward", backward)

    def _whole(self, forward):
        def counted(model, input_ids, **kwargs):
            self.inside = True
            try:
                output = forward(model, input_ids, **kwargs)
            finally:
                self.inside = False
            if input_ids.device.type != "meta":  # an empty twin's
                self.whole += len(input_ids)  # one that the walk ends at the blocks does not get here
            return output

        return counted

    def _block(self, forward):
        def counted(block, hidden_states, *args, **kwargs):
            self.single += 0 if self.inside else len(hidden_states)
            return forward(block, hidden_states, *args, **kwargs)

        return counted


@pytest.mark.parametrize("propagate", ["compressed", "dense"])
@pytest.mark.parametrize("method", COUNTED)
def test_passes_are_what_was_run(method, propagate, monkeypatch):
    if propagate == "dense" and method == "slicegpt":
        pytest.skip("refused")
    model = tiny(served_by(method))
    counter = Counter(monkeypatch)
    report = compress(model, recipe(method), Calibration(tuple(sequences()), propagate))
    passes = report["steps"][-1]["passes"]
    forward = counter.whole + counter.single / 3  # of three blocks
    assert forward > 0
    assert passes == {"forward": pytest.approx(forward, abs=1e-3), "backward": counter.backward}
    assert (passes["backward"] > 0) == ("gradients" in methods[method].needs)


def test_steps_that_run_alike_each_have_their_passes():
    step = canonical("shortgpt", {"layers": 1})
    report = compress(tiny("llama"), [step, step], sequences())
    assert [one["passes"] for one in report["steps"]] == [{"forward": 4, "backward": 0}] * 2
