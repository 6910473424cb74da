"""Checks of a config against the method, teacher, sources and sampler that it names, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from vpdlab import processes
from vpdlab.config import LIVE, RunConfig
from vpdlab.errors import HANDED_IN, UserError, notice
from vpdlab.feedback.critics import ENDPOINT_SETTINGS as ENDPOINT
from vpdlab.feedback.critics import SETTINGS as CRITIC
from vpdlab.feedback.sources import CRITIQUE, check_sources
from vpdlab.learn.critic_update import SETTINGS as CRITIC_UPDATE
from vpdlab.learn.e_step import OBJECTIVES
from vpdlab.learn.e_step import SETTINGS as E_STEP
from vpdlab.learn.m_step import Method
from vpdlab.learn.methods import METHODS
from vpdlab.model.policy import STUDENT
from vpdlab.model.teacher import KINDS, teacher_kind
from vpdlab.sampling import engines


def check(method: Method, config: RunConfig, own_sampler: bool = False) -> None:
    """Refuse settings that contradict the method's definition, or name something that does not exist.

    Args:
        own_sampler: whether a sampler was handed in, in place of the one that the config names.

    Raises:
        UserError: in one line.
    """
    for name, value in method.needs.items():
        if getattr(config, name) != value:
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise UserError(f"method {method.name} is defined with {name} {shown}: add --{name} {shown}")
    method.option_values(config)
    teacher_kind(config.teacher)
    check_sources(config.feedback)
    if not own_sampler:
        engines.find(config.sampler).check(config)
    if method.e_step and config.e_every and config.e_patience and not (config.eval_every > 0 and config.eval_teacher):
        raise UserError(f"e_patience is {config.e_patience}: it needs eval_every above 0, and eval_teacher")
    if config.critic_learns and method.samples != STUDENT:
        raise UserError(
            f"critic_learns judges critiques by the student's rollouts, but method {method.name} learns from the"
            " teacher's responses: leave it out"
        )
    if config.support == "sampled" and method.views != "student" and (config.alpha != 1.0 or method.measure):
        what = f"method {method.name} has a measure of its own" if method.measure else f"alpha is {config.alpha}"
        raise UserError(f"support sampled is reverse KL, which takes alpha 1, but {what}: choose full or topk")


def report_unused(method: Method, config: RunConfig) -> None:
    """A notice of the settings in `unused`, if there are any."""
    if processes.main() and (idle := unused(method, config)):
        notice(f"nothing in this run reads {', '.join(idle)} (method {method.name}): the value has no effect")


def check_change(method: Method, before: RunConfig, after: RunConfig, own_sampler: bool = False) -> None:
    """Refuse what cannot change while a run goes on.

    Raises:
        UserError: in one line.
    """
    check(method, after, own_sampler)
    if bool(before.e_lr) != bool(after.e_lr):
        has = "an optimiser of its own" if before.e_lr else "no optimiser of its own"
        raise UserError(f"e_lr is {before.e_lr:g}, so the E-step has {has}: it cannot become {after.e_lr:g} now")


def in_use(method: Method, config: RunConfig) -> list[str]:
    """Settings that may be changed while a run goes on, and that something in this run reads."""
    idle = _idle(method, config)
    return [name for name in LIVE if name not in idle and (name != "e_lr" or config.e_lr)]


def unused(method: Method, config: RunConfig) -> list[str]:
    """Settings that the user named although nothing in this run reads them, in order of declaration."""
    idle = config.asked & _idle(method, config)
    return [name for name in config.to_dict() if name in idle]


def _idle(method: Method, config: RunConfig) -> set[str]:
    return (_special() - set(_read(method, config))) | set(_pointless(config))


def _special() -> set[str]:
    """Settings that only some methods, objectives, teacher kinds, sources and samplers read."""
    found = {"teacher", *E_STEP, *CRITIC, *ENDPOINT, *CRITIC_UPDATE}
    for part in (*METHODS.values(), *OBJECTIVES.values(), *KINDS.values()):
        found |= set(part.settings or ())
    for name in engines.names():
        found |= set(engines.find(name).SETTINGS)
    return found


def _read(method: Method, config: RunConfig) -> Iterator[str]:
    """Those of them that this run reads."""
    if method.settings is None:  # not declared: its functions may read what any method reads
        for known in METHODS.values():
            yield from known.settings or ()
    else:
        yield from method.settings
    yield from method.needs
    if method.e_step is not None:
        yield "e_every"
        if config.e_every:
            yield from E_STEP
            yield from OBJECTIVES[config.e_objective].settings
    if method.views != "student":
        yield from ("teacher", "beta")  # beta: the recorded margin and implicit rewards
        yield from teacher_kind(config.teacher).settings
    if config.sampler in engines.names():
        yield from engines.find(config.sampler).SETTINGS
    if CRITIQUE in config.feedback:
        yield from CRITIC
        if config.critic_learns:
            yield from CRITIC_UPDATE
        if config.critic == "endpoint":
            yield from ENDPOINT


def _pointless(config: RunConfig) -> Iterator[str]:
    """Settings that another setting, or a part passed from Python, makes idle whatever the method."""
    if config.support != "topk":
        yield from ("top_k", "tail")
    if config.e_sample == STUDENT:
        yield "e_answers"
    if config.shift != "ema":
        yield "shift_decay"
    if not config.kl_target:
        yield from ("beta_min", "beta_max")
    if not config.kl_coef:
        yield "ref_rate"
    if not config.distil_future:
        yield from ("distil_discount", "distil_baseline")
    if not config.environment:
        yield from ("environment_args", "max_turns", "turn_tokens")
    elif config.environment.startswith(HANDED_IN):
        yield "environment_args"
    if config.task.startswith(HANDED_IN):
        yield from ("data", "task_args")
    if config.sampler.startswith(HANDED_IN):
        yield "sampler_rows"
