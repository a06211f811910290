"""A small method table, three tasks, a model and two corpora, to plan with where kick's own are not meant."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kick.errors import KickError, WrongOption
from kick.matrix.costs import Shape
from kick.matrix.load import parse
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.matrix.sources import Sources
from kick.matrix.variants import MethodTable
from kick.records import ModelSpec, Step
from kick.registry import UnknownName, unknown
from kick.tasks.task import AlsoRead

HEAD = """\
name: trial
model: tiny
tasks: [suite]
variants:
"""
KEYED = """\
name: trial
model: tiny
tasks: [facts, diverge]
calibration: {corpus: wikitext2, sequences: 8}
variants:
  - {method: wanda, sparsity: 0.5}
"""
DEFAULTS = {
    "magnitude": {"sparsity": None, "scope": "matrix"},
    "wanda": {"sparsity": None, "damping": 0.01},
    "rtn": {"bits": None, "group_size": 128, "symmetric": False},
    "gptq": {"bits": None, "group_size": 128, "damping": 0.01},
}
CALIBRATED = {"wanda", "gptq"}


@dataclass(frozen=True)
class Asked:
    """A task without questions."""

    name: str
    digest: str
    scoring: str = "s"
    needs_reference: bool = False
    generates: bool = False
    longest: int = 0
    reads_text: bool = False
    reads_states: bool = False
    guided: bool = False
    at_once: bool = False
    kind: str = ""
    note: str = ""
    default_shots: int = 0
    size: int | None = 100
    about: Mapping[str, str] = field(default_factory=dict, hash=False)

    def beside(self, limit):
        """Nothing."""
        return AlsoRead()

    def check(self, spec):
        """Can be asked in any way."""


SUITE = {
    "facts": Asked("facts", "d1", default_shots=5),
    "prose": Asked("prose", "d2", size=None, reads_text=True),
    "diverge": Asked("diverge", "d3", needs_reference=True, generates=True, longest=48),
}
TASKS = {**SUITE, "write": Asked("write", "d4", generates=True, longest=32)}


def step(name, options, defaults=DEFAULTS):
    if name not in defaults:
        raise UnknownName(unknown("method", name, defaults))
    for option, value in options.items():
        if option not in defaults[name]:
            raise WrongOption(f"{name}: {unknown('option', option, defaults[name])}", option)
        if (
            option == "sparsity"
            and value not in ("2:4", "4:8", "0.5")
            and not (type(value) is float and 0 < value < 1)
        ):
            raise WrongOption(f"{name}: option 'sparsity' is {value!r}; must be between 0 and 1", option)
    written = {**defaults[name], **options}
    lacking = [option for option, value in written.items() if value is None]
    if lacking:
        raise ValueError(f"{name} needs the option {lacking[0]!r}: how much")
    return Step(name, {key: str(v) if key == "sparsity" else v for key, v in written.items()})


def resolve(name, revision, dtype, base=None):
    if name == "huge":
        raise KickError("unknown model 'huge'; did you mean 'tiny'?")
    return ModelSpec(name, revision, dtype, f"weights of {name}", "tokenizer")


def tasks(names, data_root):
    found = {}
    for name in names:
        if name not in TASKS and name != "suite":
            raise KickError(unknown("task", name, ["suite", *TASKS]))
        found |= {one: TASKS[one] for one in SUITE} if name == "suite" else {name: TASKS[name]}
    return found


def corpus(name, data_root):
    if name not in ("kick_mini_calibration", "wikitext2"):
        raise KickError(unknown("corpus", name, ["kick_mini_calibration", "wikitext2"]))
    return f"text of {name}"


SOURCES = Sources(
    resolve,
    tasks,
    MethodTable(
        step, lambda one: ("calibration",) if one.method in CALIBRATED else (), CALIBRATED.__contains__
    ),
    corpus,
    lambda spec: Shape(135_000_000, 3_500_000, 1536, 576, 49152),
    lambda spec, recipe: None,
    lambda: {"facts": "generate_until", "prose": "perplexity"},
)


def planned(text, sources=SOURCES, **options):
    """The plan of a matrix, without replicas unless it names them."""
    return plan(bare(text), sources=sources, rates=Rates(), **options)


def bare(text):
    """The matrix of a text, without replicas unless it names them."""
    return parse(text if "replicas:" in text else text + "replicas: []\n", "m.yaml")
