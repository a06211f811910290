"""Studies beyond a matrix: many small variants whose cells share work that a sweep would do again.

depth        a model's forward from one of its blocks on
"""
