"""Results from elsewhere that act where they can: names, answers and columns that nothing has checked."""

import hashlib
import pickle
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from kick.records import Cell, ModelSpec, Response, Result, Sample, Score, Step, TaskSpec, Variant
from kick.store.json_files import render_run
from kick.store.samples import to_parquet

ESCAPE, CSI, BELL, TURN = "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\x07", "\u202e"
ACTING = f'"><script>alert(1)</script><img src=x onerror=alert(2)>{ESCAPE}{CSI}{BELL}{TURN}'
FORMULAS = ("=cmd()", "+1+1", "-2+3", "@SUM(A1)", "\t=cmd()", "\r=cmd()")


DENSE = Cell(Variant("dense", ModelSpec("tiny", digest="ab" * 32)), TaskSpec("task", digest="1"))


def put(root, variant="other", task="task", matrix="theirs", answer="an answer", **more):
    """A dense cell and another one, as files: nothing of kick's has checked their names."""
    spec = replace(DENSE.task, name=task)
    cells = [
        replace(DENSE, task=spec),
        Cell(replace(DENSE.variant, name=variant, recipe=(Step("rtn", {"bits": 4}),)), spec),
    ]
    for place, cell in enumerate(cells):
        scores = [{"exact_match": float(item % 3 > place)} for item in range(12)]
        samples = [
            Sample(
                f"item {number}", "p", f"Q: {answer}?\nA:", answer, (Response(text=answer),), found, answer
            )
            for number, found in enumerate(scores)
        ]
        data = to_parquet(samples)
        about = {"file": "../../../outside", "sha256": hashlib.sha256(data).hexdigest(), "rows": 12}
        score = Score("exact_match", 0.5 - 0.1 * place, 12, 0.1, 0.2, 0.8)
        result = Result(cell.key, matrix, cell, (score,), {"items": 12}, samples=about, **more)
        folder = root / "theirs" / cell.key
        folder.mkdir(parents=True)
        (folder / "samples.parquet").write_bytes(data)
        (folder / "run.json").write_bytes(render_run(result))
    return [cell.key for cell in cells]


class Pickled(pa.ExtensionType):
    """A column type that says it is to be made by unpickling."""

    payload = b""

    def __init__(self):
        super().__init__(pa.string(), "arrow.py_extension_type")

    def __arrow_ext_serialize__(self):
        return self.payload

    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        return pickle.loads(serialized)


def parquet(columns, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()
