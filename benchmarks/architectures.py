"""kick's backends against plain transformers, on a tiny random model of every causal architecture it has.

    python benchmarks/architectures.py [--only llama,mamba] [--page]

Each model is saved and loaded by kick, in a process of its own. Expected values are computed here, by
`AutoModelForCausalLM` with eager attention in float32: one row at a time, no cache, and each token from a
forward over what precedes it alone, so that no mask is trusted. Writes benchmarks/out/architectures.json,
where rows of earlier runs stay, and docs/architectures.md. One thread, minutes of CPU time.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import tempfile
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from pathlib import Path

import architectures_tiny as tiny
import torch
import transformers
from architectures_page import page
from transformers import AutoModelForCausalLM

import kick
from kick.engine import Reference
from kick.engine.backend import backends
from kick.errors import KickError
from kick.model import load, resolve
from kick.records import Request

HERE = Path(__file__).parent
OUT, PAGE = HERE / "out/architectures.json", HERE.parent / "docs/architectures.md"
LIMIT = 180  # seconds per architecture
TOKENS = 12
TOLERANCE = 1e-4  # nats per token
OLD_HOUSE = "The old house by the river had seven rooms, and in each of them a different family"
PAIRS = [
    (f"{OLD_HOUSE} lived", " for many years"),
    (f"{OLD_HOUSE} lived", " in the winter"),
    (f"{OLD_HOUSE} kept one", " dog"),
    ("Water is", " blue and cold"),
    ("The quick brown fox jumps over", " the bird"),
]
PROMPTS = [OLD_HOUSE, f"{OLD_HOUSE} kept one", "Water is", "The king and the queen"]
OTHER = " of the other town, where no man was called by name"  # a text that the model would not say


class Plain:
    """Plain transformers: logits that follow a row of ids, each row once."""

    def __init__(self, model):
        self.model, self.known = model, {}

    @torch.inference_mode()
    def forward(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Logits (T, V) of a forward over the whole row."""
        row = torch.tensor([ids])
        return self.model(row, attention_mask=torch.ones_like(row), use_cache=False).logits[0].float()

    def next(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Log-probabilities (V,) of what follows the row."""
        if ids not in self.known:
            self.known[ids] = self.forward(ids)[-1].log_softmax(-1)
        return self.known[ids]

    def logs(self, head: tuple[int, ...], targets: tuple[int, ...]) -> torch.Tensor:
        """Log-probabilities (n, V) at each of the targets' places."""
        return torch.stack([self.next(head + targets[:i]) for i in range(len(targets))])

    def greedy(self, head: tuple[int, ...], end: int) -> tuple[int, ...]:
        """The tokens of largest logit, `end` included."""
        said: tuple[int, ...] = ()
        while len(said) < TOKENS and said[-1:] != (end,):
            said += (int(self.next(head + said).argmax()),)
        return said

    def lead(self, ids: tuple[int, ...]) -> float:
        """By how much the best token leads: small for a tie."""
        best = self.next(ids).topk(2).values
        return float(best[0] - best[1])

    def gap(self, row: tuple[int, ...]) -> float:
        """How far a forward over a whole row is from the forwards over its beginnings, in nats."""
        whole = self.forward(row).log_softmax(-1)
        each = torch.stack([self.next(row[: i + 1]) for i in range(len(row))])
        return float((whole - each).abs().max())


def asked(tokenizer) -> tuple[list[Request], list[Request]]:
    """Requests of log-likelihoods and generations."""
    pairs = [Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS]
    return pairs, [Request("generate", context=p, max_tokens=TOKENS) for p in PROMPTS]


class Differences:
    """What of an engine's numbers is not as expected: the largest difference, and remarks."""

    def __init__(self, plain: Plain):
        self.plain, self.largest, self.remarks, self.missing = plain, 0.0, [], False
        self.equal = {"log-probabilities": True, "generation": True, "fidelity": True}

    def number(self, part: str, found: float, expected: float, what: str) -> None:
        off = abs(found - expected)
        if off <= TOLERANCE:
            self.largest = max(self.largest, off)
            return
        self.largest = max(self.largest, off) if math.isfinite(off) else math.inf
        self.equal[part] = False
        self.remarks.append(f"{what} {found:.4f} for {expected:.4f}")

    def tokens(self, head, found, expected) -> None:
        if tuple(found) == expected:
            return
        pairs = zip(found, expected, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))
        lead = self.plain.lead(head + expected[:first])
        if lead > TOLERANCE:
            self.equal["generation"] = False
            self.remarks.append(f"token {first + 1} of an answer differs (lead {lead:.1g})")


def compared(name: str, folder: Path, plain: Plain) -> dict:
    """One backend's numbers against the expected ones."""
    model, tokenizer = load(resolve(str(folder)))
    encode = lambda text: tuple(tokenizer.encode(text))  # noqa: E731
    pairs, prompts = asked(tokenizer)
    found = Differences(plain)
    made = backends[name]
    with tempfile.TemporaryDirectory() as kept:
        with Reference(kept, write=True) as written:
            engine = made(model, tokenizer, reference=written)
            answers = engine.answer(pairs + prompts)
            forced = [Request("fidelity", context=p, tokens=encode(OTHER)) for p in PROMPTS]
            forced += [
                Request("fidelity", context=r.context, tokens=a.tokens)
                for r, a in zip(prompts, answers[len(pairs) :], strict=True)
            ]
            engine.answer(forced)
        again = made(model, tokenizer, reference=Reference(kept))
        values = [response.values for response in again.answer(forced)]
        for given in (answers, again.answer(pairs + prompts)):
            check_answers(found, encode, tokenizer.eos_token_id, pairs + prompts, given)
    check_fidelity(found, encode, forced, values)
    notes = engine.notes()
    used = "packs" if notes["packed"] else notes["whole_forwards"]
    if not notes["own_generate"]:
        found.remarks.append("answers come from whole forwards: transformers' generate has other logits")
    return {"used": used, "up_to": notes["packed_up_to"], **found.equal} | {
        "largest": found.largest,
        "missing": found.missing,
        "remarks": list(dict.fromkeys(found.remarks)),
    }


def check_answers(found: Differences, encode, end: int, requests, responses) -> None:
    """Log-probabilities and generated tokens."""
    for request, response in zip(requests, responses, strict=True):
        head = encode(request.context)
        if request.kind == "generate":
            found.tokens(head, response.tokens, found.plain.greedy(head, end))
            continue
        targets = encode(request.context + request.continuation)[len(head) :]
        logs = found.plain.logs(head, targets)
        expected = float(logs.gather(1, torch.tensor(targets)[:, None]).double().mean())
        found.number("log-probabilities", response.logprob / len(targets), expected, "log-probability")


def check_fidelity(found: Differences, encode, requests, values) -> None:
    """FDT, SDT, perplexity of teacher-forced texts, and the divergence of the dense model from itself."""
    for request, got in zip(requests, values, strict=True):
        head, targets = encode(request.context), request.tokens
        logs = found.plain.logs(head, targets)
        picked = logs.gather(1, torch.tensor(targets)[:, None]).double()
        lead = min(found.plain.lead(head + targets[:i]) for i in range(len(targets)))
        wrong = logs.argmax(-1) != torch.tensor(targets)
        first = int(wrong.nonzero()[0]) if bool(wrong.any()) else len(targets)
        found.number("fidelity", math.log(got["dppl"]), -float(picked.mean()), "log-perplexity")
        if math.isnan(got["kl_max"]):
            found.missing = True
            found.remarks.append("no divergence: the head is not linear")
        else:
            found.number("fidelity", got["kl_max"], 0.0, "divergence from itself")
            found.number("fidelity", got["agreement"], 1.0, "agreement with itself")
        if lead > TOLERANCE:
            found.number("fidelity", got["fdt"], first, "FDT")
            found.number("fidelity", got["sdt"], float(wrong.double().mean()), "SDT")


def said(error: BaseException) -> str:
    """The first line of an error, short."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}"[:300]


def row(name: str, tokenizer) -> dict:
    """One architecture's row: `state` is compared, refused, fails, or not built by transformers."""
    try:
        model = tiny.build(name, tokenizer)
    except Exception as error:
        return {"state": "not built", "reason": said(error)}
    found: dict = {"class": type(model).__name__, "state": "compared", "backends": {}}
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            again = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()
            plain = Plain(again)
            for context, continuation in PAIRS:
                head = tuple(tokenizer.encode(context))
                targets = tuple(tokenizer.encode(context + continuation))[len(head) :]
                numbers = plain.logs(head, targets)
                if not bool(numbers.isfinite().all()):
                    raise ValueError("the tiny model's numbers are not finite")
        except Exception as error:
            return {**found, "state": "not run by transformers", "reason": said(error)}
        ids = tuple(tokenizer.encode("".join(PAIRS[0])))
        found["gap"] = plain.gap(ids)
        found["saved"] = float((Plain(model).next(ids) - plain.next(ids)).abs().max())
        for backend in backends.facts():
            try:
                found["backends"][backend] = compared(backend, Path(folder), plain)
            except KickError as error:
                found["backends"][backend] = {"used": "refused", "remarks": [str(error)]}
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                remark = f"{said(error)} ({Path(place.filename).name}:{place.lineno})"
                found["backends"][backend] = {"used": "fails", "remarks": [remark]}
    return json.loads(json.dumps(found).replace(folder, "FOLDER"))


def apart(name: str, tokenizer) -> dict:
    """`row` in a process of its own, ended after LIMIT seconds."""

    def child(pipe) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        pipe.send(row(name, tokenizer))

    near, far = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(far,))
    process.start()
    far.close()
    try:
        found = near.recv() if near.poll(LIMIT) else {"state": "fails", "reason": f"over {LIMIT} seconds"}
    except EOFError:
        found = {"state": "fails", "reason": f"its process ended with status {process.exitcode}"}
    process.terminate()
    process.join()
    return found


def main() -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", help="model types, with commas")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    kept = json.loads(OUT.read_text()) if OUT.exists() else {"rows": {}}
    if not options.page:
        tokenizer = load(resolve("smoke"))[1]
        assert all(backends[name] for name in backends.facts())  # imported once, for all processes
        names = options.only.split(",") if options.only else tiny.types()
        pool = ThreadPoolExecutor(options.jobs)
        waiting = {pool.submit(apart, name, tokenizer): name for name in names}
        for done in as_completed(waiting):
            name, found = waiting[done], done.result()
            kept["rows"][name] = found
            used = {b: v["used"] for b, v in found.get("backends", {}).items()}
            print(f"{name}: {found['state']} {found.get('reason', '')} {used}", flush=True)
            kept["tokens"] = TOKENS
            kept["date"] = date.today().isoformat()
            kept["versions"] = {
                "kick": kick.__version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__.partition("+")[0],
            }
            OUT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(kept, tiny.LEFT_OUT, tiny.REMARKS), encoding="utf-8")


if __name__ == "__main__":
    main()
