"""From the frame of kick.analysis to pages, tables and figures. Nothing here loads a model.

wording      how a number, a gap and a verdict are written
tables       @table functions: frame -> Markdown, CSV, LaTeX
figures      @figure functions: frame -> matplotlib Figure
compare_view two variants, item by item, for the terminal
leaderboard  frame -> one self-contained HTML page
side_by_side any two variants on the page, item by item: bits, prompts and answers
unasked      what cells that ended early did not ask
origins      provenance of a page
"""
