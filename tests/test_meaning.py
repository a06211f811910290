"""Keys from meaning: what changes a digest, what does not, and the digests of all that counts in keys.

As a program it records the digests anew; a module whose meaning changed needs another VERSION first, or
--same-numbers where the change moves no number.
"""

import json
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from kick import meaning, tasks
from kick.compress.method import methods
from kick.meaning import file_of
from kick.meaning.source import read
from kick.registry import Registry
from kick.runtime.entry import runtimes
from kick.runtime.method import digest

RECORD = Path(__file__).parent / "golden" / "meanings.json"

CODE = '''
"""A module."""
import math
from collections import Counter

from kick.tasks.text import words

log = math.floor
LIMIT = 3


def _helper(text: str) -> list[str]:
    """Words."""
    found = [word for word in words(text) if len(word) > LIMIT]
    return found


def score(doc, results):
    """A score."""
    total = 0
    for word in _helper(results[0]):
        total += math.sqrt(len(word))
    if not total:
        raise ValueError(f"nothing in {doc}")
    return {"score": total, "shown": f"{total:.2f} of {len(doc)!r}"}


def unused(x):
    return Counter(x)
'''

SAME = {
    "a comment": ("    total = 0\n", "    total = 0  # of all\n\n"),
    "a docstring": ('    """A score."""\n', ""),
    "an annotation": ("def score(doc, results):", "def score(doc: dict, results: list[str]) -> dict:"),
    "an import": ("import math\n", "import json\nimport math\n"),
    "another form of import": (
        "import math\nfrom collections import Counter\n",
        "from math import sqrt, floor\nfrom collections import Counter\n",
    ),
    "the formatting": ("if len(word) > LIMIT]", "if (\n        len(word) > LIMIT\n    )]"),
    "a local's name": ("total", "summed"),
    "a comprehension's name": (
        "word for word in words(text) if len(word)",
        "w for w in words(text) if len(w)",
    ),
    "a helper's name": ("_helper", "_tokens"),
    "a constant's name": ("LIMIT", "SHORTEST"),
    "the text of an error": ('f"nothing in {doc}"', '"invalid document"'),
    "what is not used": ("return Counter(x)", "return Counter(x + 1)"),
    "the order of definitions": ("LIMIT = 3\n", "LIMIT = 3\n\n\ndef first():\n    pass\n"),
}
OTHER = {
    "a constant": ("LIMIT = 3", "LIMIT = 4"),
    "a helper": ("word for word in", "word.lower() for word in"),
    "an operator": ("> LIMIT", ">= LIMIT"),
    "an imported name": ("math.sqrt", "math.log"),
    "a name of kick's": ("import words", "import rouge as words"),
    "the name of a result": ('"score": total', '"f1": total'),
    "a parameter": ("def score(doc, results)", "def score(results, doc)"),
    "a format": ("{total:.2f}", "{total:.3f}"),
    "a conversion": ("!r}", "!s}"),
    "an added statement": ("LIMIT = 3\n", "LIMIT = 3\nLIMIT += 1\n"),
    "a swapped local": ("total += math.sqrt(len(word))", "word += math.sqrt(len(total))"),
}


def swapped(code):
    for name in ("math.sqrt", "math.floor"):
        if "from math import" in code:
            code = code.replace(name, name.removeprefix("math."))
    return code


def meant(folder, code, name="score", module="module"):
    file = folder / f"{module}.py"
    folder.mkdir(exist_ok=True)
    file.write_text(code)
    spec = spec_from_file_location(module, file)
    made = module_from_spec(spec)
    sys.modules[module] = made  # where inspect looks for a class's file
    try:
        exec(compile(code, str(file), "exec"), vars(made))
        return meaning.digest(vars(made)[name])
    finally:
        del sys.modules[module]


@pytest.mark.parametrize("change", SAME)
def test_what_looks_otherwise_means_the_same(tmp_path, change):
    code = swapped(CODE.replace(*SAME[change]))
    assert code != CODE
    assert meant(tmp_path / "new" / "", code, module="elsewhere") == meant(tmp_path, CODE)


@pytest.mark.parametrize("change", OTHER)
def test_what_counts_otherwise_means_another_thing(tmp_path, change):
    code = CODE.replace(*OTHER[change])
    assert code != CODE
    assert meant(tmp_path, code) != meant(tmp_path / "old", CODE)


def test_a_renamed_helper_has_its_new_name_nowhere(tmp_path):
    assert meant(tmp_path, CODE.replace("def score", "def points"), "points") == meant(tmp_path, CODE)


def test_a_digest_is_the_same_on_every_python():
    code = Path(__file__).parent / "golden" / "meaning_sample.py"
    assert meaning.module_digest(code) == "3cf575801cd1dabc"


METHOD = """
from dataclasses import dataclass
from kick.compress.method import method, option

@method("given", title="A", paper="B", kind="prune")
@dataclass(frozen=True)
class Given:
    "Words."
    share: float = option("how much", 0.5)
    def __call__(self, model, calibration):
        return model.weight * self.share
"""


def test_titles_and_help_of_a_method_are_words_but_its_needs_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(Registry, "add", lambda table, *entry: None)
    first = meant(tmp_path, METHOD, "Given")
    for old, new in (('title="A"', 'title="C"'), ('"how much"', '"the share"'), ('"Words."', '"Others."')):
        assert meant(tmp_path, METHOD.replace(old, new), "Given") == first
    needing = METHOD.replace('kind="prune"', 'kind="prune", needs=("calibration",)')
    assert meant(tmp_path, needing, "Given") != first
    assert meant(tmp_path, METHOD.replace("0.5)", "0.6)"), "Given") != first


def test_a_file_beside_the_users_counts_by_its_content(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "import beside_it\nfrom beside_it import half\n\n"
    code += "def score(x):\n    return half(x) + beside_it.third(x)\n"
    beside = tmp_path / "beside_it.py"
    text = "def half(x):\n    return x / 2\n\ndef third(x):\n    return x / 3\n"
    beside.write_text(text)
    first = meant(tmp_path, code)
    beside.write_text("# a remark\n" + text)
    assert meant(tmp_path, code) == first
    for old, new in (("x / 2", "x // 2"), ("x / 3", "x // 3")):
        beside.write_text(text.replace(old, new))
        assert meant(tmp_path, code) != first


def test_code_in_another_file_of_kick_counts_by_its_version(tmp_path, monkeypatch):
    first = meant(tmp_path, CODE)
    text = file_of("kick.tasks.text")
    assert meaning.versions("kick.tasks.scoring") == meaning.versions("kick.tasks.text")
    old = read(text)
    monkeypatch.setattr("kick.meaning.source.read", lambda file: Raised if file == text else read(file))

    class Raised:
        version, kick_imports, imported = (old.version or 0) + 1, old.kick_imports, old.imported

    meaning.used_modules.cache_clear()
    assert meant(tmp_path, CODE) != first


@cache
def current():
    """What the code means now: modules [version, digest], methods, tasks [asked, scored]."""
    shipped = [name for name in methods if methods[name].cls.__module__.startswith("kick.")]
    mini = tasks.load(["kick_mini"])
    start = [methods[name].cls.__module__ for name in shipped]
    start += [runtimes[name].__module__ for name in runtimes if runtimes[name].__module__.startswith("kick.")]
    start += ["kick.compress.sequential", "kick.compress.pruning"]  # what methods from outside import
    start += ["kick.tasks.scoring", "kick.tasks.answers", "kick.tasks.conflict", "kick.tasks.llm_kick"]
    start += sorted({type(task).__module__ for task in mini.values()})
    start += [f"kick.tasks.{name}" for name in ("reading", "turns", "perplexity", "fidelity", "mteb_task")]
    files = {}
    for module in start:
        files |= meaning.used_modules(module)
    return {
        "modules": {
            name: [read(file).version, meaning.module_digest(file)] for name, file in sorted(files.items())
        },
        "methods": {name: methods[name].digest for name in sorted(shipped)},
        "runtime": {name: digest(name) for name in runtimes},
        "tasks": {name: [task.digest, task.scoring] for name, task in sorted(mini.items())},
    }


def unversioned(old, new):
    """The modules whose meaning changed without their VERSION, or the other way round."""
    both = old["modules"].keys() & new["modules"].keys()
    pairs = {name: (old["modules"][name], new["modules"][name]) for name in both}
    return sorted(name for name, (was, now) in pairs.items() if (was[0] != now[0]) != (was[1] != now[1]))


def test_a_module_that_counts_in_keys_changes_with_its_version_only():
    wrong = unversioned(json.loads(RECORD.read_text()), current())
    assert not wrong, (
        f"{', '.join(wrong)}: meaning and VERSION must change together; raise VERSION in the file if "
        "numbers change, then run `make keys`; if no number changes, `make keys ARGS=--same-numbers`"
    )


@pytest.mark.parametrize("kind", ["modules", "methods", "runtime", "tasks"])
def test_the_record_of_meanings_is_up_to_date(kind):
    recorded, now = json.loads(RECORD.read_text())[kind], current()[kind]
    new = {name for name in now.keys() - recorded.keys() if of_a_method(kind, name)}
    assert recorded == {name: now[name] for name in now if name not in new}, (
        "run `make keys`, commit the record"
    )


def of_a_method(kind, name):
    """Whether a digest is of a method or its file: a new method has no earlier numbers to be told from."""
    return kind in ("methods", "runtime") or name.startswith(("kick.compress.methods.", "kick.runtime."))


if __name__ == "__main__":
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {"modules": {}}
    if (wrong := unversioned(known, current())) and "--same-numbers" not in sys.argv:
        sys.exit(f"raise VERSION in {', '.join(wrong)} first, or pass --same-numbers if no number changes")
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
