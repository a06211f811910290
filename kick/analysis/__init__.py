"""Stored cells -> one tidy frame. No HTML, no matplotlib, no torch.

cells       which stored cells a frame is made of, and what each is compared with
items       the item scores of a cell as arrays
bits        right or wrong, item by item, small enough for a page
rows        the columns of a score and of its difference
ended       what a record says of how its cell ended
stopped     the rows of cells that ended before all items were asked
groups      the same scores by subject, discipline or category
pairs       closed against open book
traits      what a variant is, in columns: methods, sparsity, pattern, bits
headlines   a task's title, place and headline metric
kept        statistics kept with the store
frame       runs and samples -> one DataFrame
frame_rows  its headline rows, and rows as dicts
compare     two variants, item by item
claims      a paper's claims tested on stored results
published_scoring LLM-KICK's published scores from stored answers, defect by defect
papers_file the claims of papers, one YAML file each in papers/
agreement   whether perplexity ranks variants as the tasks do
ranking     ranks with intervals, by what is kept of dense's scores
between     two cells of which either may have ended early
"""
