"""Studies of what the method does.

influence: which sentence of a critique moved which token. anatomy: the push of a loss on each token. tabular: the same
mathematics exactly, on a problem small enough to enumerate.
"""
