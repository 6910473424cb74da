"""A language model from the outside: loading it, what its weights and layers allow, and the forward passes over it.

`loading` reads a folder and refuses what cannot be trained as it is, `traits` reads limits off the config, `passes` has
the forward passes that sampling and scoring are made of, and `probe` measures whether they agree on this model.
"""
