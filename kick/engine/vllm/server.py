"""A program: answers requests in token ids with one vLLM engine, in lines of JSON.

It is run by the Python that has vLLM and imports nothing of kick, so that vLLM may live in an environment
of its own. kick.engine.vllm.process starts it, speaks with it and ends it; where its input ends, so does it.

    -> {"engine": {...}, "cpu": {...}}                     first: arguments of vLLM's EngineArgs; on a CPU
    <- {"ready": {"vllm": "0.32.0", "device": "cpu", ...}}
    -> {"id": 1, "score": [ids], "count": 3, "last": [ids]}
    <- {"id": 1, "before": [[logprob, chosen], ...], "chosen": id, "last": [logprob, ...]}
    -> {"id": 2, "generate": [ids], "limit": 64, "ends": [ids], "temperature": 0.0, "top_p": 1.0, "seed": 0}
    <- {"id": 2, "tokens": [ids], "done": false}           as they come
    -> {"stop": 2}                                          end that answer
    -> {"id": 3, "row": [ids], "file": "/folder/3.npy"}
    <- {"id": 3, "file": "/folder/3.npy"}                   float32 (V,): log-probabilities after the ids
    <- {"id": 3, "error": "..."}                            a request that vLLM refuses

score: `count` are the last tokens of the ids, each with its log-probability and the token that would have
been chosen there; after the ids `chosen` is what comes next, and `last` has the log-probabilities of the
asked ones there. row: after the ids the log-probability of every token.
"""

from __future__ import annotations

import json
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

TOP = 4  # likeliest tokens that are asked for at each position, so that ties for the first place are seen

Say = Callable[[Mapping[str, Any]], None]
Lines = queue.SimpleQueue[str]


def choice(found: Iterable[tuple[int, float]]) -> int:
    """The token that greedy decoding takes of (token, log-probability) pairs: the likeliest, first of ties.

    vLLM's rank does not tell: it counts how many are at least as likely, so that of two tied for the first
    place both have rank 2.
    """
    token, _ = min(found, key=lambda one: (-one[1], one[0]))
    return token


class Serving:
    """An engine of vLLM and the requests in progress."""

    def __init__(self, engine: Any, say: Say):
        self.engine = engine
        self.say = say
        self.asked: dict[str, Mapping[str, Any]] = {}

    def run(self, lines: Lines) -> None:
        """Answer what comes in, for ever."""
        while True:
            while not self.asked or not lines.empty():
                self.hear(json.loads(lines.get()))
            for output in self.engine.step():
                self.tell(output)

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take in a request, or stop one."""
        if "stop" in message:
            name = str(message["stop"])
            if self.asked.pop(name, None) is not None:
                self.engine.abort_request([name])
            return
        name = str(message["id"])
        kind = next(one for one in ("score", "generate", "row") if one in message)
        try:
            self.engine.add_request(name, {"prompt_token_ids": message[kind]}, self.params(kind, message))
        except ValueError as error:  # of which vLLM's own are
            self.say({"id": message["id"], "error": str(error)})
            return
        self.asked[name] = message

    def params(self, kind: str, message: Mapping[str, Any]) -> Any:
        """vLLM's parameters of a request: token ids in and out, no stop of its own but the end tokens."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        plain = {"detokenize": False, "ignore_eos": True, "flat_logprobs": True}
        if kind == "generate":
            return SamplingParams(
                max_tokens=message["limit"],
                temperature=message["temperature"],
                top_p=message["top_p"],
                seed=message["seed"] if message["temperature"] else None,
                stop_token_ids=message["ends"],
                logprobs=0,
                output_kind=RequestOutputKind.DELTA,
                **plain,
            )
        only = {"max_tokens": 1, "temperature": 0.0, "output_kind": RequestOutputKind.FINAL_ONLY, **plain}
        if kind == "row":
            return SamplingParams(logprobs=-1, **only)
        before = {"prompt_logprobs": TOP} if message["count"] else {}
        return SamplingParams(logprob_token_ids=message["last"], **before, **only)

    def tell(self, output: Any) -> None:
        """Say what vLLM gives for a request."""
        message = self.asked.get(output.request_id)
        if message is None:
            return
        if output.finished:
            del self.asked[output.request_id]
        made = output.outputs[0]
        if "generate" in message:
            found = list(made.token_ids)
            lost = any(math.isnan(value) for value in (made.logprobs.logprobs if made.logprobs else ()))
            self.say({"id": message["id"], "tokens": found, "done": output.finished, "lost": lost})
        elif output.finished and "score" in message:
            self.say({"id": message["id"], **scored(output, message)})
        elif output.finished:
            write_row(output, message)
            self.say({"id": message["id"], "file": message["file"]})


def scored(output: Any, message: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to `score` from vLLM's output."""
    ids, count = message["score"], message["count"]
    before = []
    for place in range(len(ids) - count, len(ids)):
        found = {token: one.logprob for token, one in output.prompt_logprobs[place].items()}
        before.append([found[ids[place]], choice(found.items())])
    after = output.outputs[0].logprobs[0]
    return {
        "before": before,
        "chosen": output.outputs[0].token_ids[0],
        "last": [after[token].logprob for token in message["last"]],
    }


def write_row(output: Any, message: Mapping[str, Any]) -> None:
    """Write the log-probabilities of every token after the ids."""
    import numpy as np

    found = output.outputs[0].logprobs
    own = slice(found.start_indices[0], found.end_indices[0])
    tokens = np.asarray(found.token_ids[own], np.int64)
    row = np.full(len(set(tokens.tolist())), np.nan, np.float32)
    row[tokens] = np.asarray(found.logprobs[own], np.float32)
    np.save(message["file"], row, allow_pickle=False)


def read(stream: Any, lines: Lines) -> None:
    """Put the lines of a stream into the queue; at its end the process ends, whatever it is doing."""
    for line in stream:
        lines.put(line)
    os._exit(0)


def main() -> None:
    """Start vLLM as the first line says, then serve. Standard output belongs to the protocol alone."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what else prints goes to the log
    lines: Lines = queue.SimpleQueue()
    threading.Thread(target=read, args=(sys.stdin, lines), daemon=True).start()
    settings = json.loads(lines.get())

    def say(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    import vllm
    from vllm.platforms import current_platform

    arguments = settings["engine"] | (settings["cpu"] if current_platform.is_cpu() else {})
    engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments))
    ready = {
        "vllm": vllm.__version__,
        "device": current_platform.device_type,
        "dtype": str(engine.model_config.dtype).removeprefix("torch."),
        "vocabulary": engine.model_config.get_vocab_size(),
        "quantization": engine.model_config.quantization,
    }
    say({"ready": ready})
    Serving(engine, say).run(lines)


if __name__ == "__main__":
    main()
