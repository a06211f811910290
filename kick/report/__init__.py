"""From stored results to pages, tables and figures. Nothing here loads a model.

frame        runs and samples -> one tidy DataFrame with gaps, intervals, verdicts and the noise band
recipe       what a variant is, in columns: methods, sparsity, pattern, bits
groups       the same scores by subject, discipline or category
pairs        closed against open book, item by item
wording      how a number, a gap and a verdict are written
tables       @table functions: frame -> Markdown, CSV, LaTeX
figures      @figure functions: frame -> matplotlib Figure
compare      two variants, item by item
leaderboard  frame -> one self-contained HTML page
"""
