"""A completions server on this machine that answers with the smoke model, computed by transformers alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

import torch

from kick.model import load, resolve
from tests.support.judge_server import Answer, Asked, refused

KEY = "sk-a-key-that-nobody-may-see"


class ModelServer:
    """`behave` for `judge_server.serving`.

    echo: whether a prompt's log-probabilities are given. ids: whether prompts may be token ids. chat: whether
    it has chat completions alone; what a user says is then the whole prompt.
    """

    def __init__(self, echo: bool = True, ids: bool = True, key: str = "", chat: bool = False):
        self.model, self.tokenizer = load(resolve("smoke"))
        self.echo, self.ids, self.key, self.chat = echo, ids, key, chat
        self.lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        body = asked.body
        if self.key and asked.headers.get("authorization") != f"Bearer {self.key}":
            return refused(401, f"wrong key {asked.headers.get('authorization')}")
        if body["model"] != "smoke":
            return refused(404, f"no model {body['model']}")
        if ("messages" in body) != self.chat:
            return refused(404, "Not Found")
        if self.chat:
            (message,) = body["messages"]
            body = {**body, "prompt": message["content"]}
        if not isinstance(body["prompt"], str) and not self.ids:
            return refused(400, "prompt must be a string")
        if body.get("echo") and not self.echo:
            return refused(400, "echo is not supported")
        with self.lock, torch.no_grad():
            choice = self._echoed(body) if body.get("echo") else self._continued(body)
        if self.chat:
            choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        usage = {"total_tokens": 9, "completion_tokens": choice.pop("written", 0)}
        data = {"object": "text_completion", "model": "smoke-1", "choices": [choice], "usage": usage}
        return Answer(json.dumps(data).encode(), 200, {"Content-Type": "application/json"})

    def _ids(self, prompt: Any) -> list[int]:
        return self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt

    def _echoed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        ids = self._ids(body["prompt"])
        logs = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        best, after = logs[:-1].max(-1), int(logs[-1].argmax())
        own = [
            None,
            *logs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist(),
            float(logs[-1].max()),
        ]
        tops = [None, *({f"t{int(token)}": float(value)} for value, token in zip(*best, strict=True))]
        tops.append({f"t{after}": float(logs[-1].max())})
        return {
            "text": "",
            "logprobs": {"token_logprobs": own, "top_logprobs": tops},
            "finish_reason": "length",
        }

    def _continued(self, body: Mapping[str, Any]) -> dict[str, Any]:
        ids, made = self._ids(body["prompt"]), []
        while len(made) < body["max_tokens"]:
            token = int(self.model(torch.tensor([[*ids, *made]])).logits[0, -1].argmax())
            made.append(token)
            if token == self.tokenizer.eos_token_id:
                break
            if any(stop in self.tokenizer.decode(made) for stop in body.get("stop") or ()):
                break
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        for stop in body.get("stop") or ():
            text = text.partition(stop)[0]
        return {"text": text, "finish_reason": "stop", "written": len(made)}
