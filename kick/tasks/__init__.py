"""What is asked: lm-eval's task files, and the two kinds of task that lm-eval has no notion of.

index       finds the YAML files, lists names, loads them as Tasks
harness     a Task made of lm-eval's own Task class
perplexity  corpus perplexity by windows of `seqlen` tokens
fidelity    divergence from the dense model
data        where a data set comes from: the embedded suite, a local mirror, the hub
scoring     the scores of KICK-Mini and LLM-KICK, as `process_results` functions
"""

from kick.tasks.index import describe, load, names
from kick.tasks.task import Item, Task

__all__ = ["Item", "Task", "describe", "load", "names"]
