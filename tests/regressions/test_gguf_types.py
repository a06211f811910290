"""Every quantization type of GGUF: read as gguf-py dequantizes it, counted by its bytes, or refused by name.

gguf-py writes no K and IQ types, so blocks of them are made of random bits. The types that most files have
are also unpacked here by hand, from the block structures of ggml-common.h.
"""

from functools import cache

import gguf
import numpy as np
import pytest
import torch
import transformers as tf

from kick.errors import KickError
from kick.model import load, resolve
from kick.model.footprint import footprint
from tests.regressions.gguf_files import BASE, as_llama, keys_of, made, tensors_of, write

TYPES = gguf.GGMLQuantizationType
READ = [
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS",
    "IQ3_S", "IQ4_NL", "IQ4_XS", "NVFP4",
]  # fmt: skip
WRITTEN = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
UNREADABLE = ["Q8_1", "Q8_K", "Q1_0", "I8", "I16", "I32", "I64", "F64"]
CONFIG = tf.LlamaConfig(
    **{**BASE, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 512}
)


def sane(kind: TYPES, count: int) -> np.ndarray:
    """Blocks of random bits, (count, bytes of a block), but for those with a scale out of the ordinary."""
    generator = np.random.default_rng(kind.value)
    kept = []
    while sum(map(len, kept)) < count:
        blocks = generator.integers(0, 256, (8 * count, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        with np.errstate(all="ignore"):
            size = np.abs(gguf.dequantize(blocks, kind)).max(axis=1)
        kept.append(blocks[np.isfinite(size) & (size < 100) & (size > 1e-4)])
    return np.concatenate(kept)[:count]


@cache
def bits(kind: TYPES) -> np.ndarray:
    return sane(kind, 64)


def random_blocks(array: np.ndarray, kind: TYPES) -> np.ndarray:
    """Bytes of a matrix of that shape, (rows, bytes of a row): one of 64 blocks in turn."""
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = array.shape
    chosen = np.arange(rows * columns // block) % 64
    return bits(kind)[chosen].reshape(rows, -1)


def file_of(tmp_path, kind: TYPES, packed=random_blocks):
    tensors = tensors_of(made(CONFIG), "llama", as_llama(CONFIG))
    return write(tmp_path / "model.gguf", "llama", keys_of(CONFIG), tensors, kind, packed)


@pytest.mark.parametrize("name", READ)
def test_a_type_that_gguf_reads_is_read_and_counted(name, tmp_path):
    kind = TYPES[name]
    file = file_of(tmp_path, kind)
    model, _ = load(resolve(str(file)))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    layer = model.model.layers[0]
    for mine, theirs in (
        (layer.mlp.gate_proj, "blk.0.ffn_gate.weight"),
        (layer.self_attn.v_proj, "blk.0.attn_v.weight"),
        (model.lm_head, "output.weight"),
    ):
        assert stored[theirs].tensor_type == kind
        right = gguf.dequantize(stored[theirs].data, kind)
        assert np.array_equal(mine.weight.numpy(), right)
        assert right.std() > 0
    size, (block, width) = footprint(model), gguf.GGML_QUANT_SIZES[kind]
    assert size["bits_per_weight"] == pytest.approx(8 * width / block)
    assert size["packed_bytes"] == sum(tensor.n_bytes for tensor in stored.values())


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_type_that_gguf_cannot_read_is_refused_by_name(name, tmp_path):
    kind = TYPES[name]

    def zeros(array, _):
        block, width = gguf.GGML_QUANT_SIZES[kind]
        return np.zeros((array.shape[0], array.shape[1] // block * width), np.uint8)

    file = file_of(tmp_path, kind, zeros)
    with pytest.raises(KickError, match=f"stores .*weight as {name}, which gguf-py cannot read"):
        resolve(str(file))


def test_a_number_that_is_no_type_is_refused_by_name(tmp_path):
    """Numbers of types that llama.cpp took away again (31 to 33, 36 to 38) or has added since."""
    file = file_of(tmp_path, TYPES.Q8_0, gguf.quantize)
    data = bytearray(file.read_bytes())
    place = data.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8
    assert data[place : place + 4] == TYPES.Q8_0.value.to_bytes(4, "little")
    data[place] = 36
    file.write_bytes(data)
    with pytest.raises(KickError, match=r"a tensor in type 36 of GGUF, which .* gguf [\d.]+ does not know"):
        resolve(str(file))


def test_every_type_of_the_installed_gguf_is_in_one_of_the_lists():
    assert {kind.name for kind in TYPES} == {*READ, *WRITTEN, *UNREADABLE}


# ----------------------------------------------------------------------- unpacked by hand


def half(block: bytes, place: int) -> float:
    return float(np.frombuffer(block, np.float16, 1, place)[0])


def scales_of_six_bits(packed: bytes) -> list[tuple[int, int]]:
    """(scale, minimum) of the eight groups of a Q4_K or Q5_K block."""
    found = []
    for j in range(8):
        if j < 4:
            found.append((packed[j] & 63, packed[j + 4] & 63))
        else:
            low, high = packed[j + 4], (packed[j - 4] >> 6, packed[j] >> 6)
            found.append((low & 15 | high[0] << 4, low >> 4 | high[1] << 4))
    return found


def q4_k(block: bytes) -> list[float]:
    """d, dmin, twelve bytes of scales, 128 bytes of codes: groups of 32, two of them share bytes."""
    d, least, groups = half(block, 0), half(block, 2), scales_of_six_bits(block[4:16])
    codes = block[16:]
    return [
        d * groups[i // 32][0] * (codes[i // 64 * 32 + i % 32] >> 4 * (i // 32 % 2) & 15)
        - least * groups[i // 32][1]
        for i in range(256)
    ]


def q5_k(block: bytes) -> list[float]:
    """As Q4_K, with a byte of fifth bits for the same place of all eight groups."""
    d, least, groups = half(block, 0), half(block, 2), scales_of_six_bits(block[4:16])
    fifth, codes = block[16:48], block[48:]
    found = []
    for i in range(256):
        code = codes[i // 64 * 32 + i % 32] >> 4 * (i // 32 % 2) & 15 | (fifth[i % 32] >> i // 32 & 1) << 4
        found.append(d * groups[i // 32][0] * code - least * groups[i // 32][1])
    return found


def q6_k(block: bytes) -> list[float]:
    """Low four bits, high two bits, sixteen signed scales, d; codes are 32 too large."""
    low, high, d = block[:128], block[128:192], half(block, 208)
    scales = np.frombuffer(block, np.int8, 16, 192)
    found = []
    for i in range(256):
        part, inside = i // 128, i % 128
        four = low[part * 64 + inside % 64] >> 4 * (inside // 64) & 15
        two = high[part * 32 + inside % 32] >> 2 * (inside // 32) & 3
        found.append(d * int(scales[i // 16]) * ((four | two << 4) - 32))
    return found


IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def iq4_nl(block: bytes) -> list[float]:
    return [half(block, 0) * IQ4[block[2 + i % 16] >> 4 * (i // 16) & 15] for i in range(32)]


@pytest.mark.parametrize(
    ("name", "by_hand"), [("Q4_K", q4_k), ("Q5_K", q5_k), ("Q6_K", q6_k), ("IQ4_NL", iq4_nl)]
)
def test_the_common_types_are_what_their_blocks_say(name, by_hand, tmp_path):
    kind = TYPES[name]
    model, _ = load(resolve(str(file_of(tmp_path, kind))))
    right = torch.tensor([by_hand(block.tobytes()) for block in bits(kind)])
    found = model.model.layers[0].mlp.gate_proj.weight.reshape(-1, right.shape[1])[:64]
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
