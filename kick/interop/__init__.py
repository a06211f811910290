"""Files of other programs: results as lm-eval writes them, answers that lm-eval or Inspect gave.

export          stored cells as lm-eval's results and samples files
answers         what an answer in another program's file is
checked         another program's JSON with its types checked
lm_eval_files   reads lm-eval's samples files
inspect_logs    reads Inspect's JSON logs
imported        another program's answers as cells, paired with ours by document
submission      results from elsewhere checked, and their leaderboard added to an index
hub_repository  results as a data set repository of the hub
"""
