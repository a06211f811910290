"""Running a matrix: executors, the loop, progress.

contract     Outcome, Event, Summary, Executor
loop         what is left to do, and the loop that gets it done
interrupts   Ctrl-C, once and twice
groups       jobs of a layered matrix that go through the model's blocks together
worker       what a worker process does with a job
planned      whether what is here is still what a job was planned with
by_vllm      a variant as a checkpoint that a process of vLLM serves
onepass      variants of a group, compressed and measured in one pass over the blocks
layered      a variant alone, by a folder of compressed blocks
cells        what a cell needs beside its model
run          a matrix from file to stored results
rescore      scores again from stored answers
reproduce    one stored cell again
executors    where jobs run
progress     what is shown meanwhile
"""
