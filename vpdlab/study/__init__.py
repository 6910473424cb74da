"""Studies of what the method does.

influence: which sentence of a critique moved which token. anatomy: the push of a loss on each token. forecast: what a
few batches say of a run before it. discover: attempts to a first success. intervals: bootstrap intervals. tabular: the
same mathematics exactly, on a problem small enough to enumerate.
"""
