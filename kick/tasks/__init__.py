"""What is asked: lm-eval's task files, and the kinds of task that lm-eval has no notion of.

index       finds the YAML files, lists names, loads them as Tasks
harness     a Task made of lm-eval's own Task class
perplexity  corpus perplexity by windows of `seqlen` tokens
fidelity    divergence from the dense model
reading     contexts that are too long, cut by tokens
turns       instructions in two turns
data        where a data set comes from: the embedded suite, a local mirror, the hub
order       a fixed shuffled order, balanced over groups
llm_kick    the documents of LLM-KICK's tasks; conflict: its passages against memory
code        HumanEval, whose programs `sandbox` runs; repair: its functions with one wrong operator
guided      code whose decoding is guided; prefix: whether a text can still become a program
similarity  texts compared by hidden states; mteb_task: any task of mteb, whose data `mteb_data` reads
prompts     the same items under several prompts, and words in front of them
refusal     harmful requests and harmless look-alikes
samples     several answers to a question, which their own model judges
ifeval      instructions that lm-eval's own code checks
scoring     scores, as `process_results` functions; answers: those that LLM-KICK adds
text        what is a match, an overlap, a copy, a loop
"""

from kick.tasks.index import describe, load, names
from kick.tasks.task import Item, Task

__all__ = ["Item", "Task", "describe", "load", "names"]
