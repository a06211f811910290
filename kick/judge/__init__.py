"""A judge that grades stored answers, at an OpenAI-style endpoint.

endpoint   requests, retries, budget
secret     the key
rubrics    what is asked
verdicts   what is read from a reply
judge      questions -> verdicts, kept
columns    verdicts -> an item's columns
results    the pass over stored results
"""
