"""The world of the task `lexicon`: made-up names that stand for operations on four digits.

`operations`: what the operations do. `phrases`: how they are said in English. `frames`: the names, the voices, and the
sentences around a phrase. `critics`: what a voice says about a name. `reading`: the digits in a response and which
steps are right. `belief`: whether a reader believes a voice.
"""
