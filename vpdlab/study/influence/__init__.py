"""Critique influence: which sentence of the feedback moved which token of the response.

The same response is scored under many teacher prompts: with the whole critique, without it, without each sentence, and
with other texts in its place. What changes at token t is log q(y_t), the teacher's log-probability of the token that
the student sampled, and the whole distribution, measured as KL.

Two ways to attribute the effect to n sentences:
  leave-one-out   log q(y_t | C) - log q(y_t | C without sentence i): n prompts. Redundant sentences mask each other, so
                  these need not sum to the effect of the whole critique; the difference is the gap.
  Shapley values  the mean over all orders in which the sentences could be added: 2^n prompts, sums exactly.

`critique_influence` returns, per response token of the policy (of an episode, not those of the environment) and in
nats: `logp` under the whole critique, `empty_logp` under none, `student_logp`; `total` = logp - empty_logp and
`total_kl`; `drop` and `drop_kl` [sentences][tokens]; `shapley` [sentences][tokens], or None with a `shapley_reason`;
`gap` = total - sum of drop; `variants` with `delta` = logp - the variant's, and `kl`. KL is KL(q with the whole
critique || q with the variant) over the full vocabulary. `cut` names the prompts that had to be truncated.

All prompts go through the code that training uses: `Renderer.teacher`, `batch`, `Teacher.token_dist`, `comparison`.

scores: the texts to score, and what becomes of their numbers. sentences: a critique taken apart, shuffled or swapped.
"""

from vpdlab.study.influence.scores import MOST_FOR_SHAPLEY, critique_influence, rescorer
from vpdlab.study.influence.sentences import MOST_SENTENCES, sentences, shuffled, swapped

__all__ = [
    "critique_influence", "rescorer", "sentences", "shuffled", "swapped", "MOST_SENTENCES", "MOST_FOR_SHAPLEY",
]  # fmt: skip
