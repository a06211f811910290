"""A variant's checkpoint and the process of vLLM that answers for it: started when something is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick.engine.vllm.dialogue import Dialogue, Line, Message
from kick.engine.vllm.process import SERVER, Limits, ServerProcess
from kick.engine.vllm.where import installed
from kick.errors import CellFailed

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig

SHORTEST = 2048  # tokens that a process is started for, if the model's window has as many
ROWS = 64  # answers in progress at once, on a CPU
CPU_CACHE = 2 << 30  # bytes of keys and values on a CPU, if the matrix says nothing of memory


@dataclass
class Served:
    """A checkpoint that is asked in token ids; `close` ends its process.

    folder: what vLLM loads, computed in `dtype`. memory: bytes for keys and values; None for vLLM's own share
    of a GPU, CPU_CACHE on a CPU. scratch: a folder for the log of the process and the rows that it writes.
    ready: what the process said of itself. starts, seconds: how often one was started, and how long it took.
    """

    folder: Path
    dtype: str
    config: PretrainedConfig
    generation_config: GenerationConfig
    scratch: Path
    memory: int | None = None
    limits: Limits = field(default_factory=Limits)
    server: Path = SERVER
    ready: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 0
    seconds: float = 0.0
    _line: Line | None = None
    _length: int = 0
    _refused: str = ""  # why it did not start: it will not the next time

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, as the configuration has them."""
        config = getattr(self.config, "text_config", None) or self.config
        return int(config.vocab_size)

    def ask(self, messages: Sequence[Message], length: int, window: int, batch_tokens: int) -> Dialogue:
        """Ask a process that is started if there is none, or none for texts as long.

        Args:
            length: tokens of the longest text. window: the model's, in tokens. batch_tokens: of a forward.

        Raises CellFailed for one that does not start, or for one that failed at its first request: another
        would fail as well.
        """
        line = self._line
        if line is not None and line.process.failure and not line.process.answered:
            self._refused = line.process.failure
        if self._refused:
            raise CellFailed(self._refused)
        if line is None or not line.process.running or length > self._length:
            self.close()
            line = self._start(length, window, batch_tokens)
        return line.dialogue(messages)

    def _start(self, length: int, window: int, batch_tokens: int) -> Line:
        began = time.perf_counter()
        # A token more than the window: vLLM wants room for one behind a full window. It is never read.
        self._length = min(max(length, SHORTEST), window + 1)
        process = ServerProcess(installed().python, self.scratch / "vllm.log", self.limits, self.server)
        self.starts += 1
        try:
            process.start(self._settings(batch_tokens))
        except CellFailed as error:
            self._refused = str(error)
            raise
        self.ready, self._line = process.ready, Line(process)
        self.seconds += time.perf_counter() - began
        return self._line

    def _settings(self, batch_tokens: int) -> dict[str, Any]:
        """Arguments of vLLM's EngineArgs; those under `cpu` hold on a CPU alone."""
        return {
            "engine": {
                "model": str(self.folder),
                "dtype": self.dtype,
                "skip_tokenizer_init": True,  # token ids come in and go out
                "max_model_len": self._length,
                "max_num_batched_tokens": max(batch_tokens, ROWS),
                "max_logprobs": -1,
                "generation_config": "vllm",  # nothing of the model's own
                "enforce_eager": True,  # starts sooner, and numbers do not depend on a compiler
                "disable_log_stats": True,
                "trust_remote_code": False,
                "seed": 0,
                **({"kv_cache_memory_bytes": self.memory} if self.memory else {}),
            },
            "cpu": {"kv_cache_memory_bytes": self.memory or CPU_CACHE, "max_num_seqs": ROWS},
        }

    def memory_used(self) -> int:
        """Bytes that the process has now; 0 without one."""
        return 0 if self._line is None else self._line.process.memory()

    def close(self) -> None:
        """End the process."""
        if self._line is not None:
            self._line.process.close()
            self._line = None
