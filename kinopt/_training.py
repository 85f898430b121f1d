"""Training as a loop for lanes: loss, stop rule, optimizer.

A step looks at the loss first, and moves the parameters then:

    value, grad = loss(params, batch)    one evaluation a step
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
import numpy as np
import optax

from kinopt import trees
from kinopt._advance import advance
from kinopt._batching import if_any_lane
from kinopt._build import Build
from kinopt._line import Line, Source, Task
from kinopt._minibatches import Minibatches
from kinopt._typing import PyTree, Scalar
from kinopt._workers import Worker

__all__ = [
    "FAILED",
    "KEEP",
    "Problem",
    "Seen",
    "Training",
    "as_task",
    "record",
    "records",
]

FAILED = -1
"""Outcome of a seed whose loss is not finite any more."""

KEEP = ("params", "best_params", "opt_state")
"""What comes back of a seed, beside numbers, aux and summary, unless it is said what should."""

RECORDS = 256
"""Most records of a call of `record`."""


class Problem(NamedTuple):
    """What all seeds have in common."""

    loss_fn: Callable[..., Any]  # params, and a batch where there are any -> loss, or loss and aux
    optimizer: Any  # key -> GradientTransformation, or one
    stop: Callable[[PyTree, Scalar], Any] | None
    batches: Callable[[Any, Any], PyTree] | None  # key, step -> batch
    summary: Callable[[PyTree], PyTree] | None  # of the parameters at the end
    num_steps: int  # most updates
    stacked: bool  # whether each seed has a start of its own
    key_impl: Any  # of typed keys; None: raw keys
    has_aux: bool
    keep: frozenset[str]  # names out of `KEEP`

    @property
    def functions(self) -> tuple:
        """What its programs are made of."""
        return self.loss_fn, self.optimizer, self.stop, self.batches, self.summary

    @property
    def settings(self) -> tuple:
        """What else they depend on."""
        return self[len(self.functions) :]

    @property
    def shared(self) -> PyTree:
        """Data that all lanes read; what other functions close over is a part of the program."""
        return self.batches.data if isinstance(self.batches, Minibatches) else None

    def kept(self, name: str, value: PyTree) -> PyTree:
        """The value where it is to come back; else None, which takes no memory and no time."""
        return value if name in self.keep else None

    def key(self, data: jax.Array) -> jax.Array:
        """The key of a seed as its user gave it."""
        if self.key_impl is None:
            return data
        return jax.random.wrap_key_data(data, impl=self.key_impl)

    def optimizer_of(self, key: jax.Array) -> Any:
        """The optimizer of the seed with this key (its data)."""
        if hasattr(self.optimizer, "update"):
            return self.optimizer
        return self.optimizer(self.key(key))

    def transformation(self, key: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The same, for any extra arguments."""
        return optax.with_extra_args_support(self.optimizer_of(key))

    def batch(self, key: jax.Array, step: Any, shared: PyTree) -> PyTree:
        """What the seed with this key (its data) sees at a step; None without batches."""
        if self.batches is None:
            return None
        if isinstance(self.batches, Minibatches):
            return self.batches.of(shared, self.key(key), step)
        return self.batches(self.key(key), step)

    def loss(self, params: PyTree, batch: PyTree) -> tuple[Scalar, PyTree]:
        """The loss, and what it says beside it or None."""
        said = self.loss_fn(params) if self.batches is None else self.loss_fn(params, batch)
        return said if self.has_aux else (said, None)

    def look(self, params: PyTree, batch: PyTree) -> tuple[jax.Array, PyTree, PyTree, Callable]:
        """Loss, aux, the gradient that optimizers expect, and the loss function for line searches.

        For a complex parameter z = x + i y Optax expects dF/dx + i dF/dy, the direction of steepest
        ascent; `jax.grad` gives its conjugate.
        """
        (value, aux), grad = jax.value_and_grad(self.loss, has_aux=True)(params, batch)
        if any(map(jnp.iscomplexobj, jax.tree.leaves(params))):
            return value, aux, jax.tree.map(jnp.conj, grad), _no_line_search
        return value, aux, grad, lambda params: self.loss(params, batch)[0]


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
    aux: PyTree  # of the loss at params
    summary: PyTree  # of params; filled in when the seed is written down


def _init(problem: Problem, key: jax.Array, start: PyTree, shared: PyTree) -> Training:
    """A seed that has not looked yet."""
    loss = jax.eval_shape(lambda: problem.loss(start, problem.batch(key, 0, shared))[0])
    return Training(
        key=key,
        params=start,
        opt_state=problem.transformation(key).init(start),
        best_value=jnp.full((), jnp.inf, loss.dtype),
        best_params=problem.kept("best_params", start),
    )


def _step(
    problem: Problem, carry: Training, count: jax.Array, shared: PyTree
) -> tuple[Training, jax.Array, Seen]:
    """Looks at the loss and applies one update; says what it saw before it."""
    batch = problem.batch(carry.key, count, shared)
    value, aux, grad, value_fn = problem.look(carry.params, batch)
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
        params=carry.params if problem.summary else problem.kept("params", carry.params),
        value=value,
        best_params=best_params,
        best_value=best_value,
        opt_state=problem.kept("opt_state", carry.opt_state),
        aux=aux,
        summary=None,
    )
    updates, opt_state = problem.transformation(carry.key).update(
        grad, carry.opt_state, carry.params, value=value, grad=grad, value_fn=value_fn
    )
    if "opt_state" not in problem.keep:
        opt_state = _needed(opt_state, carry.opt_state)
    params = optax.apply_updates(carry.params, updates)
    return Training(carry.key, params, opt_state, best_value, best_params), outcome, seen


def _needed(new: PyTree, old: PyTree) -> PyTree:
    """The next state; what only shows stays as it was, so that nothing is computed for it."""

    def without_shows(new, old):
        shown = {name: getattr(old, name) for name in getattr(new, "only_shown", ())}
        return new._replace(**shown) if shown else new

    return jax.tree.map(without_shows, new, old, is_leaf=lambda x: hasattr(x, "only_shown"))


def _where(flag: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """A selection that costs nothing in a step where no lane needs it."""
    return if_any_lane(flag, lambda: trees.where(flag, new, old), lambda: old)


def _finish(problem: Problem, seen: Seen) -> Seen:
    """Sums a seed up; only what is to come back is left."""
    assert problem.summary is not None
    summary = problem.summary(seen.params)
    return seen._replace(params=problem.kept("params", seen.params), summary=summary)


def as_task(problem: Problem) -> Task:
    """The loop of these trainings."""
    return Task(
        init=functools.partial(_init, problem),
        step=functools.partial(_step, problem),
        finish=functools.partial(_finish, problem) if problem.summary else None,
        num_steps=problem.num_steps + 1,
        stacked=problem.stacked,
    )


def record(
    problem: Problem,
    task: Task,
    chunk: int,
    build: Build,
    source: Source,
    line: Line,
    rounds: jax.Array,
) -> tuple[Line, tuple[PyTree, jax.Array, jax.Array]]:
    """Advances a line whose lanes are all its seeds, and writes down where they are.

    Args:
      problem: what the seeds have in common.
      task: the loop of it.
      chunk: steps between two records.
      build: as in `advance`.
      source: the seeds.
      line: what has become of them.
      rounds: number of records, int32 [], at most `RECORDS`.

    Returns:
      The line, and the lanes' parameters, their loss and number of steps before each chunk:
      [RECORDS, lanes, ...], the last of them repeated.
    """

    def value(params, key, step):
        return problem.loss(params, problem.batch(key, step, source.shared))[0]

    def body(line: Line, n: jax.Array):
        lanes, kept = line.lanes, line.kept

        def latest(new, old):
            ended = lanes.ended.reshape(lanes.ended.shape + (1,) * (new.ndim - 1))
            return jnp.where(ended, old, new)

        params, num_steps = jax.tree.map(
            latest, (lanes.carry.params, lanes.num_steps), (kept.seen.params, kept.num_steps - 1)
        )
        seen = params, jax.vmap(value)(params, lanes.carry.key, num_steps), num_steps
        rounds_now = (n < rounds).astype(jnp.int32)
        return advance(task, chunk, build, source, line, rounds_now, even=True), seen

    return jax.lax.scan(body, line, jnp.arange(RECORDS))


def records(worker: Worker, number: int) -> tuple[PyTree, jax.Array, jax.Array]:
    """So many records of the lanes of a program: [lanes, records, ...]."""
    line, blocks = worker.line, []
    for first in range(0, number, RECORDS):
        some = min(RECORDS, number - first)
        line, seen = worker.program(worker.source, line, np.int32(some))
        blocks.append(jax.tree.map(lambda x, some=some: x[:some], seen))
    return jax.tree.map(lambda *x: jnp.concatenate(x).swapaxes(0, 1), *blocks)
