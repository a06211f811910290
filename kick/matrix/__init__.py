"""A YAML file -> checked cells and jobs, with what they cost. Nothing here needs torch to be imported.

yaml_marks   YAML with the line of each value
schema       what a matrix file may hold
load         a file or preset -> Matrix
variants     entries of a matrix -> variants
names        methods and tasks by name, before anything slow is imported
needs        data sets and models that are missing, before the same
sources      tables in which names are looked up
plan         Matrix -> cells, jobs, estimates
stopping     rules by which cells end early
costs        seconds, memory and disk of a job
memory       peak memory from sizes: in memory, layered, `kick compress`
backward     what gradients of the calibration loss take
blockwise    which recipes go block by block
engines      the engine of a matrix that names none
rates        how fast this machine is
measure      one timed forward for better rates
stale        stored cells whose keys a change left behind
"""
