"""AutoRound's checkpoints in its own format; those in GPTQ's and AWQ's are read as theirs."""

from pathlib import Path

import pytest
import torch
import transformers as tf

from tests.interop.checked import IDS, check

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]  # kernels are compiled for minutes


@pytest.mark.parametrize(
    ("scheme", "bits"), [("W4A16", 4 + 20 / 32), ("W2A16", 2 + 18 / 32), ("W8A16", 8 + 24 / 32)]
)
def test_auto_round(scheme, bits, base, tmp_path):
    auto_round = pytest.importorskip("auto_round")
    model = tf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = tf.AutoTokenizer.from_pretrained(base)
    maker = auto_round.AutoRound(
        model, tokenizer, scheme=scheme, group_size=32, iters=0, disable_opt_rtn=True, device_map="cpu"
    )
    _, folder = maker.quantize_and_save(str(tmp_path / "out"), format="auto_round")
    made = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    check(Path(folder), made(IDS).logits, base, bits, atol=0.02, dtype=made.dtype)
