"""Studies beyond a matrix: many small variants whose cells share work that a sweep would do again.

components   one weight matrix pruned at a time, and an allocation guided by what that did
onebyone     the work on its cells: the matrices of a block, from one loaded model
depth        a model's forward from one of its blocks on
allocation   how much of each matrix goes, at one overall sparsity
verdicts     what a matrix can show, simulated before it is run
pages        what was found, as tables and a page
"""
