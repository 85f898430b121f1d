"""Training as a loop for lanes: loss, stop rule, optimizer.

A step looks at the loss first, and moves the parameters then:

    value, grad = loss(params)           one evaluation a step
    outcome     = stop(params, value), or FAILED where the value is not finite
    keep          what is now, if the seed ends here
    params     += update(grad, value)

so that a seed of N updates takes N + 1 steps, the last of which only looks.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kinopt._batching import any_lane
from kinopt._line import Line, Source, Task, advance
from kinopt._typing import PyTree, Scalar

__all__ = ["FAILED", "KEEP", "RECORDS", "Problem", "Seen", "Training", "as_task", "record"]

FAILED = -1
"""Outcome of a seed whose loss is not finite any more."""

KEEP = ("params", "best_params", "opt_state")
"""What comes back of a seed, beside numbers, unless it is said what should."""

RECORDS = 256
"""Most records of a call of `record`."""


class Problem(NamedTuple):
    """What all seeds have in common."""

    loss_fn: Callable[[PyTree], Scalar]
    optimizer: Any  # key -> GradientTransformation, or one
    stop: Callable[[PyTree, Scalar], Any] | None
    num_steps: int  # most updates
    stacked: bool  # whether each seed has a start of its own
    key_impl: Any  # of typed keys; None: raw keys
    keep: frozenset[str]  # names out of `KEEP`

    def kept(self, name: str, value: PyTree) -> PyTree:
        """The value where it is to come back; else None, which takes no memory and no time."""
        return value if name in self.keep else None

    def optimizer_of(self, key: jax.Array) -> Any:
        """The optimizer of the seed with this key (its data)."""
        if hasattr(self.optimizer, "update"):
            return self.optimizer
        if self.key_impl is not None:
            key = jax.random.wrap_key_data(key, impl=self.key_impl)
        return self.optimizer(key)

    def transformation(self, key: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The same, for any extra arguments."""
        return optax.with_extra_args_support(self.optimizer_of(key))

    def look(self, params: PyTree) -> tuple[jax.Array, PyTree, Callable[[PyTree], Scalar]]:
        """Loss, the gradient that optimizers expect, and the loss function for line searches.

        For a complex parameter z = x + i y Optax expects dF/dx + i dF/dy, the direction of steepest
        ascent; `jax.grad` gives its conjugate.
        """
        value, grad = jax.value_and_grad(self.loss_fn)(params)
        if not any(map(jnp.iscomplexobj, jax.tree.leaves(params))):
            return value, grad, self.loss_fn
        return value, jax.tree.map(jnp.conj, grad), _no_line_search


def _no_line_search(params: PyTree) -> Scalar:
    """A line search takes slopes of the loss by itself, without the conjugate."""
    raise TypeError(
        "an optimizer with a line search (optax.lbfgs) cannot be used with complex parameters: it "
        "would follow the conjugate of the gradient. Make params of real and imaginary parts."
    )


class Training(NamedTuple):
    """What a lane carries from step to step."""

    key: jax.Array  # uint32 [...]: data of the seed's key
    params: PyTree
    opt_state: PyTree
    best_value: jax.Array  # float []: lowest finite loss so far; inf before the first
    best_params: PyTree  # where it was; None where nobody asks


class Seen(NamedTuple):
    """What is kept of the step that ends a seed; None for what nobody asks for."""

    params: PyTree
    value: jax.Array  # float []: loss at params
    best_params: PyTree
    best_value: jax.Array  # float []
    opt_state: PyTree


def _init(problem: Problem, key: jax.Array, start: PyTree, shared: PyTree) -> Training:
    """A seed that has not looked yet."""
    del shared
    # The lambda: JAX asks a function for a hash and a weak reference, which not all callables have.
    dtype = jax.eval_shape(lambda params: problem.loss_fn(params), start).dtype
    return Training(
        key=key,
        params=start,
        opt_state=problem.transformation(key).init(start),
        best_value=jnp.full((), jnp.inf, dtype),
        best_params=problem.kept("best_params", start),
    )


def _step(
    problem: Problem, carry: Training, count: jax.Array, shared: PyTree
) -> tuple[Training, jax.Array, Seen]:
    """Looks at the loss and applies one update; says what it saw before it."""
    del shared
    value, grad, value_fn = problem.look(carry.params)
    value = value.astype(carry.best_value.dtype)  # not weakly typed any more
    outcome = jnp.zeros((), jnp.int32)
    if problem.stop is not None:
        said = jnp.asarray(problem.stop(carry.params, value), jnp.int32)
        outcome = jnp.where(count > 0, said, outcome)
    finite = jnp.isfinite(value)
    outcome = jnp.where(finite, outcome, FAILED)
    improves = finite & (value < carry.best_value)
    best_value = jnp.where(improves, value, carry.best_value)
    best_params = _where(improves, problem.kept("best_params", carry.params), carry.best_params)
    seen = Seen(
        params=problem.kept("params", carry.params),
        value=value,
        best_params=best_params,
        best_value=best_value,
        opt_state=problem.kept("opt_state", carry.opt_state),
    )
    updates, opt_state = problem.transformation(carry.key).update(
        grad, carry.opt_state, carry.params, value=value, grad=grad, value_fn=value_fn
    )
    params = optax.apply_updates(carry.params, updates)
    return Training(carry.key, params, opt_state, best_value, best_params), outcome, seen


def _where(flag: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """A selection that costs nothing in a step where no lane needs it."""

    def select():
        return jax.tree.map(lambda new, old: jnp.where(flag, new, old), new, old)

    return jax.lax.cond(any_lane(flag), select, lambda: old)


def as_task(problem: Problem) -> Task:
    """The loop of these trainings."""
    return Task(
        init=functools.partial(_init, problem),
        step=functools.partial(_step, problem),
        finish=None,
        num_steps=problem.num_steps + 1,
        stacked=problem.stacked,
    )


def record(
    problem: Problem,
    task: Task,
    chunk: int,
    fused: bool,
    source: Source,
    line: Line,
    rounds: jax.Array,
) -> tuple[Line, tuple[PyTree, jax.Array, jax.Array]]:
    """Advances a line whose lanes are all its seeds, and writes down where they are.

    Args:
      problem: what the seeds have in common.
      task: the loop of it.
      chunk: steps between two records.
      fused: as in `advance`.
      source: the seeds.
      line: what has become of them.
      rounds: number of records, int32 [], at most `RECORDS`.

    Returns:
      The line, and the lanes' parameters, their loss and number of steps before each chunk:
      [RECORDS, lanes, ...], the last of them repeated.
    """

    def body(line: Line, n: jax.Array):
        lanes, kept = line.lanes, line.kept

        def latest(new, old):
            ended = lanes.ended.reshape(lanes.ended.shape + (1,) * (new.ndim - 1))
            return jnp.where(ended, old, new)

        params, num_steps = jax.tree.map(
            latest, (lanes.carry.params, lanes.num_steps), (kept.seen.params, kept.num_steps - 1)
        )
        seen = params, jax.vmap(problem.loss_fn)(params), num_steps
        rounds_now = (n < rounds).astype(jnp.int32)
        return advance(task, chunk, fused, source, line, rounds_now), seen

    return jax.lax.scan(body, line, jnp.arange(RECORDS))
