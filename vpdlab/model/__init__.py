"""The policy, the teacher and everything between a model folder and a log-probability.

loading: a folder, checked. traits: limits that the config states. passes: the forward passes of sampling and scoring.
probe: a measurement of whether they agree on this model. saving: an ordinary Hugging Face folder. policy: the network
in its two roles. teacher: which weights read the feedback prompt. updates: optimiser steps. devices: the device.
attention: less copying, and bfloat16 on a CPU. caches: room to grow, and passes over contexts that end early. slots,
casting: decoding in fixed buffers.
compiling, fused: compiled passes and scoring. determinism: bit-equal repeats on a GPU. checkpointing: activations
recomputed. budget: minibatches as memory allows. shapes: sizes of published models. memory: what a run will need,
counting: without its weights.
adapters: LoRA. sharding: FSDP2.
batch: views as padded tensors. stages: what rows have in common, and the rest. distributions: next-token distributions
as hidden states. chunks: walking them in chunks of logits. comparison: divergence, KL and entropy of student and
teacher.
"""
