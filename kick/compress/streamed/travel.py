"""What goes along with a model: its tokenizer, templates, generation config, license, README."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kick import __version__
from kick.model.gguf import SIZES
from kick.model.source import tokenizer_in

README = "README.md"
PATTERNS = (
    "generation_config.json", "*token*.json", "*token*.model", "*.model", "*.tiktoken", "vocab.*",
    "merges.txt", "added_tokens.json", "*.jinja", "*processor*.json", "LICENSE*", "LICENCE*", "NOTICE*",
    "COPYING*", "USE_POLICY*", README,
)  # fmt: skip


def copy(source: Path, folder: Path) -> list[str]:
    """Copy what goes along with the model in `source`; the names. Code and weights do not."""
    found = {file for pattern in PATTERNS for file in source.glob(pattern) if file.is_file()}
    for file in sorted(found):
        shutil.copyfile(file, folder / file.name)
    if (source / SIZES).is_file():  # read from GGUF: AutoTokenizer would build another one
        tokenizer_in(source).save_pretrained(folder)
    return sorted(file.name for file in found)


def describe(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Add a section to the README that says what was done to the model `name`; a new one if it has none."""
    file = folder / README
    before = file.read_text("utf-8", errors="replace").rstrip() + "\n\n" if file.is_file() else ""
    file.write_text(before + section(name, manifest), "utf-8")


def section(name: str, manifest: Mapping[str, Any]) -> str:
    """The section: recipe, calibration, sizes, how to load it."""
    lines = [f"## Compressed with kick {__version__}", "", f"Made from `{name}` by these steps:", ""]
    for step in manifest["steps"]:
        options = ", ".join(f"{key} {value}" for key, value in step["options"].items() if value is not None)
        title = step.get("title", step["method"])
        lines.append(f"- {title} ({options}): {step['sparsity']:.1%} pruned by now")
    if manifest.get("calibration"):
        facts = manifest["calibration"]
        lines += ["", f"Calibrated on {facts['sequences']} x {facts['length']} tokens of {facts['corpus']}."]
    size = manifest["footprint"]
    stored = manifest["dtype"] + (f", scales {manifest['scales']}" if "scales" in manifest else "")
    lines += [
        "",
        f"Format: {manifest['format']}, {stored}. In an ideal packed format its matrices take "
        f"{size['bits_per_weight']:g} bits per weight. `kick/manifest.json` has all figures"
        + (", `kick/masks.safetensors` the masks." if manifest.get("masks") else "."),
        "It loads with `AutoModelForCausalLM.from_pretrained`.",
    ]
    return "\n".join(lines) + "\n"
