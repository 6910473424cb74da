"""Rows read whole, or in two or three stages: what the defaults of `vpdlab.model.stages.Sharing` were read from.

    python benchmarks/stages.py --threads 1
    python benchmarks/stages.py --threads 1 --model smollm2-135m --repeat 3

Groups of rows begin with the same tokens, go on with tokens of their own and end with a response. The ways alternate; a
cell is the median of processor milliseconds without and with gradient, and its share of whole rows. "chosen" is how
many stages `staged` takes at these sizes.

A second table has the same of torch's attention alone by the number of keys, for which `caches.evened` makes a multiple
of eight: 128 rows of 4 heads of 24 numbers, 23 queries.
"""

from __future__ import annotations

import random
import statistics
from typing import Any

import common

# Groups, rows in each, and tokens: in common, of a row's own, of its response.
SIZES = (
    (1, 2, 24, 20, 12),
    (2, 4, 24, 20, 12),
    (4, 8, 24, 20, 12),
    (16, 8, 24, 20, 12),
    (1, 8, 60, 60, 12),
    (8, 8, 60, 60, 12),
)
KEYS = (44, 45, 46, 47, 48)


def views(size: tuple[int, ...]) -> list[Any]:
    """Rows of these sizes, of random tokens."""
    from vpdlab.types import View

    groups, count, common_tokens, own, response = size
    rng = random.Random(0)

    def some(number: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, 300) for _ in range(number))

    begun = [(group, some(common_tokens)) for group in range(groups)]
    return [View(begin + some(own + 1), some(response), group=group) for group, begin in begun for _ in range(count)]


def medians(jobs: dict[Any, Any], repeat: int) -> dict[Any, float]:
    """Processor milliseconds of each job; they take turns."""
    found = common.alternate(jobs, repeat)
    return {key: 1e3 * statistics.median(one.processor for one in taken) for key, taken in found.items()}


def measured(given: Any, model: Any, size: tuple[int, ...]) -> list[str]:
    """The table row of one size."""
    import torch

    from vpdlab.model.batch import collate
    from vpdlab.model.caches import spared
    from vpdlab.model.passes import response_states
    from vpdlab.model.stages import Sharing

    rows = views(size)
    ways = {"whole": None, "two": Sharing(0.0, 0, 0.0), "three": Sharing(0.0, 0, 0.5)}
    batches = {way: collate(rows, range(len(rows)), share=share) for way, share in ways.items()}

    def job(way: str, trained: bool) -> Any:
        def once() -> None:
            with torch.set_grad_enabled(trained):
                states = response_states(model, batches[way])
                if trained:
                    states.sum().backward()

        return lambda: common.timed(once)

    times = medians({(way, trained): job(way, trained) for way in ways for trained in (False, True)}, given.repeat)
    chosen = collate(rows, range(len(rows)), share=Sharing(spared=spared(model))).stages
    cells = [
        " / ".join(
            f"{times[way, trained]:.1f} ({times[way, trained] / times['whole', trained]:.2f})"
            for trained in (False, True)
        )
        for way in ways
    ]
    return [" ".join(map(str, size)), *cells, str(len(chosen.parts)) if chosen else "whole"]


def attention(given: Any) -> list[list[str]]:
    """Rows of the second table."""
    import torch

    def job(keys: int, trained: bool) -> Any:
        shapes = ((128, 23, 4, 24), (128, 4, keys, 24), (128, 4, keys, 24))
        query, key, value = (torch.randn(shape, requires_grad=trained) for shape in shapes)
        mask = torch.ones(128, 1, 23, keys, dtype=torch.bool).tril(keys - 23)

        def once() -> None:
            out = torch.nn.functional.scaled_dot_product_attention(query.transpose(1, 2), key, value, attn_mask=mask)
            if trained:
                out.sum().backward()

        return lambda: common.timed(once)

    times = medians({(keys, trained): job(keys, trained) for keys in KEYS for trained in (False, True)}, given.repeat)
    return [[str(keys), f"{times[keys, False]:.1f} / {times[keys, True]:.1f}"] for keys in KEYS]


def main() -> None:
    parser = common.options(
        __doc__, model=dict(default="apprentice"), repeat=dict(type=int, default=15, help="passes to measure")
    )
    given = parser.parse_args()
    common.pin(given)
    from transformers import AutoModelForCausalLM

    from vpdlab import zoo

    model = AutoModelForCausalLM.from_pretrained(zoo.resolve(given.model)).eval()
    sizes = SIZES[:1] if given.quick else SIZES
    given.repeat = 1 if given.quick else given.repeat
    print(common.machine(given, "float32") + "\n", flush=True)
    heads = ["groups, rows, tokens: common, own, response", *("whole, ms", "two stages", "three stages"), "chosen"]
    common.show(heads, [measured(given, model, size) for size in sizes])
    print()
    common.show(["keys", "attention, ms"], attention(given))


if __name__ == "__main__":
    main()
