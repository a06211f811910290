"""Compression of checkpoints that memory does not hold: block in, block out.

target    the folder that is written: claimed, continued, placed whole
shards    safetensors files that grow by blocks
record    what is kept of a block between two steps of a recipe
supply    gives a method's walk the blocks of the model, one at a time
stepwise  a step carried out on one block at a time, as somebody else goes through the model
tally     what became of a model's matrices, for the record
travel    what goes along with a model: tokenizer, license, README
compress  a recipe applied to a checkpoint by name, saved under a new one
"""
