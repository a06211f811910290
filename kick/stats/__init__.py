"""Statistics: what a score means, how sure it is, and two scores on the same items.

support      what one item's score can be
metrics      every metric: its unit, direction, scale and how items are summed up
intervals    one score: means and their intervals
paired       two scores on the same items: differences, Holm
equivalence  whether two scores are shown to be within a margin
bounded      scores with known ends: bounds that hold for every distribution
studentised  skewed means over independent units
stratified   two scores on n of N items, weighted by strata of known size
resample     resamples of items
ranks        rank correlation
sequential   when a verdict is known before all items are asked
spending     an error of 5 %, spent over several looks
flips        right/wrong items of which a part was asked: exact bounds
flip_looks   looks at right/wrong items, many studies at once
mean_looks   looks at graded items, windows and distances, one study
eprocess     a bet against a mean, which may be looked at at any time
studies      simulated studies
forecast     what so many items can show
"""
