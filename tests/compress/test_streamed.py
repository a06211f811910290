"""Compression block by block gives bit for bit what compression in memory gives, also after a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from kick.compress import canonical, compress
from kick.compress.calibrate import corpus
from kick.compress.checkpoint import save
from kick.compress.context import Calibration
from kick.compress.streamed import shards, supply
from kick.compress.streamed.compress import compress_checkpoint
from kick.compress.streamed.target import Target, claimed
from kick.errors import CellFailed, KickError
from kick.model.layered import OUTSIDE, Layered
from kick.records import CalibrationSpec
from tests.support.architectures import ARCHITECTURES, VOCABULARY, sequences, tiny
from tests.support.pairs import COSTS

WANDA = [canonical("wanda", {"sparsity": 0.5})]
GPTQ = [canonical("gptq", {"bits": 4, "group_size": 8})]
RECIPES = {
    "wanda": WANDA,
    "sparsegpt": [canonical("sparsegpt", {"sparsity": "2:4"})],
    "gptq": GPTQ,
    "global": [canonical("magnitude", {"sparsity": 0.3, "per": "global"})],
    "owl, hqq": [canonical("owl", {"sparsity": 0.5}), canonical("hqq", {"bits": 4, "group_size": 8})],
    "gptq, wanda": [*GPTQ, *WANDA],
    "hqq, wanda": [canonical("hqq", {"bits": 4, "group_size": 8}), *WANDA],
}
SPEC = CalibrationSpec("kick_mini_calibration", 4, 24, 0)


def gemma3():
    torch.manual_seed(1)
    config = tf.Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, sliding_window=16,
        sliding_window_pattern=2, query_pre_attn_scalar=8, initializer_range=0.15, pad_token_id=0,
    )  # fmt: skip
    return tf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def made(name):
    return gemma3() if name == "gemma3" else tiny(name)


def tokenizer():
    words = WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    return tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


@pytest.fixture(autouse=True)
def tokens(monkeypatch):
    """The calibration data are random tokens."""
    monkeypatch.setattr(corpus, "sequences", lambda *_: sequences())


def stored(model, folder, dtype=torch.float32, **options):
    """A model's folder, as a user has it, with a licence and a README."""
    model.to(dtype).save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    (folder / "LICENSE").write_text("free\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (folder / "modeling.py").write_text("raise SystemExit\n")
    return folder


def tensors(folder):
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def plain(facts):
    """A manifest without what the two ways say differently."""
    steps = [{k: v for k, v in step.items() if k not in COSTS} for step in facts["steps"]]
    return {name: facts[name] for name in ("format", "notes", "propagate", "footprint")} | {"steps": steps}


def in_memory(model, recipe, out, dtype=None):
    calibration = Calibration(tuple(sequences()))
    report = compress(model, recipe, calibration)
    return save(model, tokenizer(), calibration, report, out, dtype=dtype)


def same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def check_both_ways(recipe, name, tmp_path, dtype=None):
    """Compressing block by block gives the files that compressing in memory gives."""
    folder = stored(made(name), tmp_path / "model")
    manifest = compress_checkpoint(str(folder), recipe, SPEC, tmp_path / "out", dtype=dtype)
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    wanted = in_memory(model, recipe, tmp_path / "memory", dtype and getattr(torch, dtype))
    same(*(tensors(tmp_path / way) for way in ("out", "memory")))
    masks = ["masks.safetensors"] if recipe[0].method not in ("gptq", "awq") else []
    for file in masks:
        same(*(load_file(tmp_path / way / "kick" / file) for way in ("out", "memory")))
    assert dtype or plain(manifest) == plain(wanted)  # that one counts what it has rounded in memory
    configs = [json.loads((tmp_path / way / "config.json").read_text()) for way in ("out", "memory")]
    assert dtype or (configs[0] == configs[1] and manifest["logit_difference"] == 0)
    assert sorted(one.name for one in (tmp_path / "out" / "kick").iterdir()) == ["manifest.json", *masks]


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gemma3"])
@pytest.mark.parametrize("recipe", ["wanda", "sparsegpt", "gptq"])
def test_masks_and_weights_are_those_of_the_way_through_memory(recipe, name, tmp_path):
    check_both_ways(RECIPES[recipe], name, tmp_path)


@pytest.mark.parametrize("recipe", ["global", "owl, hqq", "gptq, wanda", "hqq, wanda"])
def test_recipes_of_several_walks_too(recipe, tmp_path):
    folder = stored(tiny("llama"), tmp_path / "model")
    manifest = compress_checkpoint(str(folder), RECIPES[recipe], SPEC, tmp_path / "out")
    wanted = in_memory(tiny("llama"), RECIPES[recipe], tmp_path / "memory")
    same(tensors(tmp_path / "out"), tensors(tmp_path / "memory"))
    assert plain(manifest) == plain(wanted)


def test_a_block_that_leaves_the_grid_makes_all_of_them_dense(tmp_path, monkeypatch):
    """The first block is on the grid still, so that it is packed at first."""
    grid = supply.BlockSupply._grid
    calls = []

    def at_first(self, path, found):
        calls.append(path)
        if len(calls) == 2:
            self.calibration.formats.popitem()
        return grid(self, path, found)

    monkeypatch.setattr(supply.BlockSupply, "_grid", at_first)
    folder = stored(tiny("llama"), tmp_path / "model")
    manifest = compress_checkpoint(str(folder), GPTQ, SPEC, tmp_path / "out")
    assert [path[-1] for path in calls] == ["0", "1", "0", "1", "2"]
    assert manifest["format"] == "dense, quantized weights stored dequantized"
    model = tiny("llama")
    compress(model, GPTQ, sequences())
    state = model.state_dict()
    same(tensors(tmp_path / "out"), {k: v for k, v in state.items() if k != "lm_head.weight"})


@pytest.mark.parametrize("recipe", ["wanda", "sparsegpt", "gptq"])
def test_a_checkpoint_keeps_its_type(recipe, tmp_path):
    """Stored is what was computed in float32 from the weights as they are, rounded."""
    folder = stored(tiny("llama"), tmp_path / "model", torch.bfloat16)
    manifest = compress_checkpoint(str(folder), RECIPES[recipe], SPEC, tmp_path / "out")
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    in_memory(model, RECIPES[recipe], tmp_path / "memory", dtype=torch.float32)
    found = tensors(tmp_path / "memory").items()
    wanted = {k: v.bfloat16() if v.is_floating_point() else v for k, v in found}
    same(tensors(tmp_path / "out"), wanted)
    assert manifest["dtype"] == "bfloat16"
    assert manifest["logit_difference"] < 1e-4
    assert tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "dtype"), [("gpt2", "float16"), ("gemma3", "bfloat16")])
def test_another_type_on_request(name, dtype, tmp_path):
    """What it is compared with is rounded outside the blocks too: bfloat16 changes logits by 1 %."""
    folder = stored(made(name), tmp_path / "model")
    manifest = compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out", dtype=dtype)
    assert {one.dtype for one in tensors(tmp_path / "out").values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    assert manifest["logit_difference"] < 1e-5


def test_a_weight_that_does_not_fit_the_type_is_said(tmp_path):
    model = tiny("llama")
    model.model.layers[1].input_layernorm.weight[3] = 1e6
    folder = stored(model, tmp_path / "model")
    with pytest.raises(CellFailed, match=r"input_layernorm\.weight does not fit into torch.float16"):
        compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "a" / "out", dtype="float16")
    assert not (tmp_path / "a").exists()


def test_files_are_no_larger_than_asked_for_and_indexed(tmp_path, monkeypatch):
    monkeypatch.setattr(supply, "LIMIT", 20_000)
    folder = stored(tiny("llama"), tmp_path / "model", max_shard_size=30_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    manifest = compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [file.name for file in files] == list(manifest["bytes"])
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    sizes = 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        assert {index["weight_map"][key] for key in found} == {file.name}
        assert sum(one.nbytes for one in found.values()) <= 20_000
        sizes += sum(one.nbytes for one in found.values())
    assert index["metadata"]["total_size"] == sizes
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert float((loaded.model.layers[2].mlp.up_proj.weight == 0).float().mean()) == 0.5


def test_what_travels_with_a_model_comes_along(tmp_path):
    folder = stored(tiny("llama"), tmp_path / "model")
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')  # transformers would not save it
    out = tmp_path / "out"
    compress_checkpoint(str(folder), WANDA, SPEC, out)
    for name in ("LICENSE", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    text = (out / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\n---\n# A model\n")
    assert "- Wanda (sparsity 0.5): 50.0% pruned" in text
    assert "Calibrated on 4 x 24 tokens of kick_mini_calibration." in text
    assert not (out / "modeling.py").exists()


def test_a_second_call_is_refused_while_the_first_is_at_work(tmp_path):
    folder = stored(tiny("llama"), tmp_path / "model")
    with claimed(tmp_path / "out"):
        with pytest.raises(KickError, match="another kick compress is writing to"):
            compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out")
        assert (tmp_path / "out" / "kick").is_dir()


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KickError, match="there already"):
        compress_checkpoint("nowhere", WANDA, SPEC, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


class Killed(BaseException):
    """In place of a kill: nothing is cleaned up that a process would clean up in an except clause."""


@pytest.mark.parametrize("recipe", ["sparsegpt", "gptq", "hqq, wanda"])
def test_killed_after_any_write_it_goes_on_where_it_was(recipe, tmp_path, monkeypatch):
    """Byte for byte the same folder, whatever it was killed after, with no block done twice for nothing."""
    monkeypatch.setattr(supply, "LIMIT", 20_000)
    folder = stored(tiny("llama"), tmp_path / "model", torch.bfloat16)
    compress_checkpoint(str(folder), RECIPES[recipe], SPEC, tmp_path / "whole")
    out, save_, opened, kills = tmp_path / "out", Target.save, Layered.load, 0
    loads = []
    monkeypatch.setattr(Layered, "load", lambda self, index: loads.append(index) or opened(self, index))

    def killed(self, identity, state):
        save_(self, identity, state)
        raise Killed

    monkeypatch.setattr(Target, "save", killed)
    while kills < 20:
        try:
            compress_checkpoint(str(folder), RECIPES[recipe], SPEC, out)
            break
        except Killed:
            kills += 1
            assert [one.name for one in out.iterdir()] == ["kick"]
    steps = len(RECIPES[recipe])
    assert kills == 3 * steps + 1  # two blocks and the end of each step, and the end
    assert loads == [*range(3), *range(3)]  # of the model once, and of the result once
    assert contents(out) == contents(tmp_path / "whole")


def test_killed_as_it_cleans_up_it_ends_where_it_was(tmp_path, monkeypatch):
    """The work folder goes piece by piece; whichever piece went last, the same command ends the work."""
    folder = stored(tiny("llama"), tmp_path / "model", torch.bfloat16)
    compress_checkpoint(str(folder), RECIPES["gptq"], SPEC, tmp_path / "whole")
    out, unlink, kills = tmp_path / "out", Path.unlink, []

    def killed(self, missing_ok=False):
        unlink(self, missing_ok=missing_ok)
        if self.parent.name == "work" and (out / "config.json").exists() and self.name not in kills:
            kills.append(self.name)
            raise Killed

    monkeypatch.setattr(Path, "unlink", killed)
    while "progress.json" not in kills:  # with it nothing is left that says "unfinished": it is whole
        with pytest.raises(Killed):
            compress_checkpoint(str(folder), RECIPES["gptq"], SPEC, out)
    assert len(kills) >= 2
    assert contents(out) == contents(tmp_path / "whole")


def contents(folder):
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    found.pop("kick/lock", None)  # of a killed process, that nobody holds
    manifest = json.loads(found.pop("kick/manifest.json"))
    return found, plain(manifest), manifest["logit_difference"]


def test_half_written_files_are_cut_off(tmp_path, monkeypatch):
    folder = stored(tiny("llama"), tmp_path / "model")
    compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "whole")
    add, count = shards.Shards.add, 0

    def half(self, name, tensor):
        nonlocal count
        count += 1
        if count == 22:  # in the third block
            self.files[-1].add(name, tensor[:1])
            raise Killed
        return add(self, name, tensor)

    monkeypatch.setattr(shards.Shards, "add", half)
    with pytest.raises(Killed):
        compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out")
    compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_unfinished_work_is_not_continued_by_another_call(tmp_path, monkeypatch):
    folder = stored(tiny("llama"), tmp_path / "model")
    monkeypatch.setattr(Layered, "logits", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out")
    with pytest.raises(KickError, match="an unfinished compression of another model, recipe"):
        compress_checkpoint(str(folder), GPTQ, SPEC, tmp_path / "out")
    assert (tmp_path / "out" / "kick" / "work" / "progress.json").is_file()


def test_what_reads_back_otherwise_is_not_kept(tmp_path, monkeypatch):
    add = shards.Shards.add
    monkeypatch.setattr(shards.Shards, "add", lambda self, name, tensor: add(self, name, tensor + 1))
    folder = stored(tiny("llama"), tmp_path / "model")
    with pytest.raises(CellFailed, match=r"read back from .* is not what was written"):
        compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


def test_methods_that_need_the_whole_model_say_so_and_get_it(tmp_path, capsys):
    folder = stored(tiny("llama"), tmp_path / "model", torch.bfloat16)
    recipe = [canonical("gblm", {"sparsity": 0.5})]
    manifest = compress_checkpoint(str(folder), recipe, SPEC, tmp_path / "out")
    assert "kick: gblm needs the whole model at once; the model is loaded whole" in capsys.readouterr().err
    assert manifest["steps"][0]["sparsity"] == 0.5
    assert {one.dtype for one in tensors(tmp_path / "out").values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["opt", "mixtral", "gemma3"])
def test_parts_of_a_layered_model_are_what_transformers_loads(name, tmp_path):
    folder = stored(made(name), tmp_path / "model")
    wanted = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    state = wanted.state_dict()
    layered = Layered(folder)
    for index in range(3):
        layered.load(index)
        assert all(torch.equal(one, state[name]) for name, one in layered.own(index).items())
        layered.drop(index)
        assert all(one.is_meta for one in layered.own(index).values())
    with layered.outside([5, 7], head=True) as model:
        assert all(torch.equal(one, state[n]) for n, one in layered.own(OUTSIDE).items() if "embed" not in n)
        rows = model.get_input_embeddings().weight[[5, 7]]
        assert torch.equal(rows, wanted.get_input_embeddings().weight[[5, 7]])
    for name, buffer in wanted.named_non_persistent_buffers():
        assert torch.equal(buffer, layered.model.get_buffer(name))


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path):
    folder = stored(tiny("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(KickError, match=r"lacks model.layers.3.*the checkpoint is not whole"):
        compress_checkpoint(str(folder), WANDA, SPEC, tmp_path / "out")


PEAK = """
import sys, torch
from pathlib import Path
from kick.compress import canonical
from kick.compress.streamed import compress
from kick.records import CalibrationSpec
compress.corpus.sequences = lambda *_: [torch.arange(16)[None]]
recipe = [canonical("wanda", {"sparsity": 0.5})]
for folder in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")
    compress.compress_checkpoint(folder, recipe, CalibrationSpec("c4", 1, 16, 0), Path(folder + "-out"))
    text = Path("/proc/self/status").read_text()
    print([int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")][0])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what a process's peak is")
def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path):
    """12 blocks of 4 MB more: 48 MB as they are stored, 96 as they are computed."""
    folders = []  # for one process: what the first leaves behind counts for the second
    for blocks in (4, 16):
        config = tf.LlamaConfig(
            vocab_size=96, hidden_size=448, intermediate_size=896, num_hidden_layers=blocks,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64,
        )  # fmt: skip
        model = tf.AutoModelForCausalLM.from_config(config)
        folders.append(str(stored(model, tmp_path / f"{blocks}", torch.bfloat16)))
    done = subprocess.run([sys.executable, "-c", PEAK, *folders], capture_output=True, text=True, check=True)
    few, many = (int(line) / 1024 for line in done.stdout.split()[-2:])
    assert many - few < 25, (few, many)
