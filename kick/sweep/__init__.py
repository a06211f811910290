"""Running a matrix: executors, the loop, progress.

contract     Outcome, Event, Summary, Executor
loop         what is left to do, and the loop that gets it done
interrupts   Ctrl-C, once and twice
worker       what a worker process does with a job
run          a matrix from file to stored results
rescore      scores again from stored answers
reproduce    one stored cell again
executors    where jobs run
progress     what is shown meanwhile
"""
