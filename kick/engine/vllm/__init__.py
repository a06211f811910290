"""Requests answered by vLLM, the engine that will serve a model: one process of it per variant.

server    the program that the Python with vLLM runs: token ids in, log-probabilities and token ids out
where     which Python that is, and which vLLM it has
process   starts the program, speaks with it, ends it
dialogue  messages to it and its replies, matched
served    a variant's checkpoint with the process that answers for it
engine    the backend: kick's requests as the program's, kick's stops, the fidelity numbers

Nothing here imports vLLM but the program, so that it may live in an environment of its own.
"""
