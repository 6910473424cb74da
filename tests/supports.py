"""Both distributions on a support, as `comparison` takes them, for tests of divergences."""

from __future__ import annotations

import torch
from torch import Tensor

from vpdlab.losses import add_tail
from vpdlab.model.comparison import Support


def on_support(student_logp: Tensor, teacher_logp: Tensor, support: Support) -> tuple[Tensor, Tensor]:
    """[n, K'] each: the student's K likeliest tokens, and the rest as a bucket or divided out. By the definition: the
    rest is summed over the tokens that are left."""
    if support.kind != "topk" or support.k >= student_logp.shape[-1]:
        return student_logp, teacher_logp
    ids = student_logp.detach().topk(support.k, dim=-1).indices
    outside = torch.ones_like(student_logp, dtype=torch.bool).scatter(-1, ids, False)
    sides = []
    for logp in (student_logp, teacher_logp):
        kept = logp.gather(-1, ids)
        rest = logp.masked_fill(~outside, -1e9).logsumexp(-1, keepdim=True)
        sides.append(torch.log_softmax(kept, dim=-1) if support.tail == "renormalise" else add_tail(kept, rest))
    return sides[0], sides[1]
