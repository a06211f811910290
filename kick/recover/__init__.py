"""Recovery: what training brings back after compression.

form         what every form shares: options, and a step of a recipe
adapters     matrices that are trained through a few parameters beside them, and the merge
parameters   which of a model's own parameters are trained
loss         the loss and its gradients, the head run on a slice of positions at a time
forms/       one file per form, and per method that trains as it prunes; `{recover: masklora}` in a matrix
             is the method `recover-masklora`
"""
