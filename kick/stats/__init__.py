"""Statistics: what a score means, how sure it is, and two scores on the same items.

metrics     every metric: its unit, direction and how items are summed up
intervals   one score: means and their intervals
paired      two scores on the same items: differences, equivalence, Holm
"""
