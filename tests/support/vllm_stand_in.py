"""A program that speaks as kick/engine/vllm/server.py does, with a Llama in numpy in place of vLLM.

Whole forwards, one request at a time: nothing of it is shared with kick's engine. What follows a "#" in the
model's name makes it misbehave.
"""

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def read(lines):
    for line in sys.stdin:
        lines.put(json.loads(line))
    os._exit(0)


def say(message):
    print(json.dumps(message), flush=True)


class Llama:
    """A Llama of a folder, in numpy: it starts in a tenth of the time that an import of torch takes."""

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.weights = load_file(Path(folder) / "model.safetensors")
        self.weights.setdefault("lm_head.weight", self.weights["model.embed_tokens.weight"])

    def norm(self, x, name):
        size = np.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / size * self.weights[f"{name}.weight"]

    def turned(self, x):
        """(heads, T, d) with rotary positions."""
        half = x.shape[-1] // 2
        rope = self.config.get("rope_parameters") or self.config
        speed = rope["rope_theta"] ** -(np.arange(half) / half)
        angle = np.arange(x.shape[1])[:, None] * np.concatenate([speed, speed])
        return x * np.cos(angle) + np.concatenate([-x[..., half:], x[..., :half]], -1) * np.sin(angle)

    def attention(self, x, name):
        heads, shared = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        parts = []
        for kind, count in (("q", heads), ("k", shared), ("v", shared)):
            part = x @ self.weights[f"{name}.{kind}_proj.weight"].T
            part = part.reshape(len(x), count, -1).transpose(1, 0, 2)
            parts.append(part if kind == "v" else self.turned(part))
        query, key, value = parts[0], *(part.repeat(heads // shared, 0) for part in parts[1:])
        fit = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        fit = np.where(np.tri(len(x), dtype=bool), fit, -np.inf)
        share = np.exp(fit - fit.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True)) @ value
        return mixed.transpose(1, 0, 2).reshape(len(x), -1) @ self.weights[f"{name}.o_proj.weight"].T

    def __call__(self, ids):
        """Log-probabilities (T, V) after each id."""
        x = self.weights["model.embed_tokens.weight"][ids].astype(np.float64)
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            x = x + self.attention(self.norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
            normed = self.norm(x, f"{name}.post_attention_layernorm")
            gate, up, down = (
                self.weights[f"{name}.mlp.{one}_proj.weight"].T for one in ("gate", "up", "down")
            )
            opened = normed @ gate
            x = x + (opened / (1 + np.exp(-opened)) * (normed @ up)) @ down
        logits = self.norm(x, "model.norm") @ self.weights["lm_head.weight"].T
        best = logits.max(-1, keepdims=True)
        return (logits - best - np.log(np.exp(logits - best).sum(-1, keepdims=True))).astype(np.float32)


def score(model, one):
    ids, count = one["score"], one["count"]
    found = model(ids)
    before = [
        [float(found[place - 1, ids[place]]), int(found[place - 1].argmax())]
        for place in range(len(ids) - count, len(ids))
    ]
    last = [float(found[-1, token]) for token in one["last"]]
    return {"before": before, "chosen": int(found[-1].argmax()), "last": last}


def trouble(kind, one):
    """Misbehave in place of answering."""
    if kind == "crash" or (kind == "later" and one["id"] > 0):
        print("Traceback: the machine is on fire", file=sys.stderr, flush=True)
        os._exit(3)
    if kind == "garbage":
        print("INFO: hello", flush=True)
    if kind == "stranger":
        say({"id": 10**6, "tokens": [], "done": True, "lost": False})
    if kind == "silent":
        time.sleep(60)
    if kind == "refuse":
        say({"id": one["id"], "error": "prompt too long"})
    if kind in ("early", "later"):
        say({"id": one["id"], "tokens": [5], "done": True, "lost": False})
    if kind == "lost":
        say({"id": one["id"], "tokens": [5], "done": False, "lost": True})


def write(model, one):
    np.save(one["file"], model(one["row"])[-1], allow_pickle=False)
    say({"id": one["id"], "file": one["file"]})


def serve(model, lines, kind):
    going = {}
    while True:
        while not going or not lines.empty():
            one = lines.get()
            if "stop" in one:
                going.pop(one["stop"], None)
            elif kind:
                trouble(kind, one)
            elif "generate" in one:
                going[one["id"]] = one, []
            elif "score" in one:
                say({"id": one["id"], **score(model, one)})
            else:
                write(model, one)
        for name, (one, tokens) in list(going.items()):
            token = int(model([*one["generate"], *tokens])[-1].argmax())
            tokens.append(token)
            done = token in one["ends"] or len(tokens) == one["limit"]
            say({"id": name, "tokens": [token], "done": done, "lost": False})
            if done:
                del going[name]


def main():
    lines = queue.SimpleQueue()
    threading.Thread(target=read, args=(lines,), daemon=True).start()
    given = lines.get()["engine"]
    folder, _, kind = given["model"].partition("#")
    if kind == "stillborn":
        print("ValueError: no such architecture", file=sys.stderr, flush=True)
        sys.exit(1)
    model = None if kind else Llama(folder)
    say({"ready": {"vllm": "0.0.0", "device": "cpu", "dtype": given["dtype"]}})
    serve(model, lines, kind)


if __name__ == "__main__":
    main()
