"""Studies beyond a matrix: many small variants whose cells share work that a sweep would do again.

components   one weight matrix pruned at a time, and an allocation guided by what that did
onebyone     the work on its cells: the matrices of a block, from one loaded model
depth        a model's forward from one of its blocks on
allocation   how much of each matrix goes, at one overall sparsity
verdicts     what a matrix can show, simulated before it is run
pages        what a component study found, as tables and a page
layers       what a model loses without each of its blocks, beside metrics that claim to predict it
dropping     the work on its cells: only what lies behind the dropped block runs again
blockmetrics the metrics of each block: influence, angle, Taylor, magnitudes, perplexity
harm         what each block's loss does, and the metrics' rank correlations with it
layer_pages  what a layer study found, as tables, a page and a figure
search       a saliency found by genetic programming, compared with the published one
genetics     formulas bred: random ones, crossover, mutation, and what is the same
fitness      the loss of a model pruned by a formula
search_pages what a search found, as tables, a page and a figure
recovery     what a budget of training brings back of one pruned model
recovery_pages what a recovery study found, as a table, a page and a figure
budget       the best recipe within a device's memory and a given time: a bandit
halving      successive halving, the bandit's rule
budget_pages what a budget study found, as a table, a page and a figure
"""
