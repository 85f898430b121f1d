"""What do collisions cost, in time and in memory?

A step of a small convolutional network with collisions of its 10-class head, against a step
without; and one large layer alone, against the three matrix products that the soft law is made of
(weights with weights, gradients with gradients, and their similarities with the gradients). All
candidates take turns; ratios are medians of the ratios within a turn, with 95 % intervals.

Reproduces: KO, section 4.2 (3.69 h against 3.68 h), for a small network and one large layer.
Needs: nothing.
Takes: smoke 20 s; laptop 3 min; paper 10 min on 2 cores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import kinopt
from benchmarks.markdown import table_of
from benchmarks.models import ConvNet
from benchmarks.record import Row, latest
from benchmarks.timing import MedianRatio, interleaved, median_ratio

__all__ = ["PRESETS", "Settings", "run", "table"]

PLAIN = "adamw"
PRODUCTS = "three matrix products"


@dataclass(frozen=True)
class Settings:
    """The network's batch, the layer's size, and how often each candidate is timed."""

    batch_size: int = 128
    image_size: int = 28
    num_neurons: int = 1000
    num_features: int = 2048
    num_step_turns: int = 300
    num_layer_turns: int = 21
    seed: int = 0


PRESETS = {
    "smoke": Settings(8, 8, 16, 8, 6, 6),
    "laptop": Settings(),
    "gpu": Settings(1024, 32, 4096, 4096, 200, 30),
}


def run(settings: Settings) -> Iterator[Row]:
    """One row for each candidate of the step, then of the layer."""
    yield from _step_rows(settings)
    yield from _layer_rows(settings)


def _step_rows(settings: Settings) -> Iterator[Row]:
    model = ConvNet()
    image_key, label_key, init_key = jax.random.split(jax.random.key(settings.seed), 3)
    size = (settings.batch_size, settings.image_size, settings.image_size)
    images = jax.random.uniform(image_key, size)
    labels = jax.random.randint(label_key, size[:1], 0, 10)
    params = jax.jit(model.init)(init_key, images)["params"]
    head = kinopt.layer_mask("head")
    optimizers = {
        PLAIN: optax.adamw(1e-3),
        "soft on the head, adamw": optax.chain(
            kinopt.soft_collision(0.1, mask=head), optax.adamw(1e-3)
        ),
        "hard on the head, adamw": optax.chain(
            kinopt.hard_collision(0.2, mask=head), optax.adamw(1e-3)
        ),
    }

    def stepper(optimizer: optax.GradientTransformation):
        def loss_of(params):
            logits = jnp.asarray(model.apply({"params": params}, images))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        @jax.jit
        def step(params, state):
            updates, state = optimizer.update(jax.grad(loss_of)(params), state, params)
            return optax.apply_updates(params, updates), state

        return step.lower(params, optimizer.init(params)).compile()

    compiled = {name: stepper(optimizer) for name, optimizer in optimizers.items()}
    states = {name: (params, optimizer.init(params)) for name, optimizer in optimizers.items()}

    def advance(name: str):
        states[name] = compiled[name](*states[name])
        return states[name]

    calls = {name: lambda name=name: advance(name) for name in compiled}
    seconds = interleaved(calls, settings.num_step_turns, "training steps")
    for name, program in compiled.items():
        ratio = median_ratio(seconds[name], seconds[PLAIN])
        yield _row("training step", name, seconds[name], ratio, program, None)


def _layer_rows(settings: Settings) -> Iterator[Row]:
    weight_key, gradient_key = jax.random.split(jax.random.key(settings.seed))
    shape = (settings.num_features, settings.num_neurons)  # a Flax kernel: neurons are last
    weights = {"kernel": jax.random.normal(weight_key, shape) / settings.num_features**0.5}
    gradients = {"kernel": jax.random.normal(gradient_key, shape)}
    few, many = (_coefficient(gradients["kernel"], weights["kernel"], x) for x in (0.015, 0.1))
    hard = kinopt.hard_collision
    transformations = {
        "soft": kinopt.soft_collision(0.1),
        "hard, 1.5 % of pairs": hard(few),
        "hard, 10 % of pairs": hard(many),
        "hard, 10 % of pairs, gaussian": hard(many, scatter="gaussian"),
        "hard, matching": hard(many, combine="matching"),
    }

    @jax.jit
    def products(gradients, state, weights):
        g, w = gradients["kernel"], weights["kernel"]
        return {"kernel": g @ ((w.T @ w) * (g.T @ g))}, state

    compiled = {PRODUCTS: products.lower(gradients, (), weights).compile()}
    states: dict = {PRODUCTS: ()}
    for name, transformation in transformations.items():
        states[name] = transformation.init(weights)
        update = jax.jit(transformation.update)
        compiled[name] = update.lower(gradients, states[name], weights).compile()

    calls = {
        name: lambda name=name: compiled[name](gradients, states[name], weights)
        for name in compiled
    }
    seconds = interleaved(calls, settings.num_layer_turns, "layers")
    for name, program in compiled.items():
        ratio = median_ratio(seconds[name], seconds[PRODUCTS])
        accepted = None
        if name.startswith("hard"):
            _, state = calls[name]()
            accepted = kinopt.collision_stats(state)["kernel"].accepted_fraction
        yield _row(f"layer {shape[1]} x {shape[0]}", name, seconds[name], ratio, program, accepted)


def _coefficient(gradients: jax.Array, weights: jax.Array, fraction: float) -> float:
    """The coll_coef at which about this fraction of all pairs collides (Eq. 7, RMS distance)."""

    def distances(kernel):
        squares = jnp.sum(kernel**2, axis=0)
        return jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2 * kernel.T @ kernel, 0))

    speeds = distances(gradients)
    keys = speeds * jnp.exp(-distances(weights) / weights.shape[0] ** 0.5)
    pairs = keys[jnp.triu_indices(len(keys), 1)]
    return float(1 - jnp.quantile(pairs, 1 - fraction) / speeds.max())


def _row(task: str, name: str, seconds, ratio: MedianRatio, program, accepted) -> Row:
    return {
        "task": task,
        "candidate": name,
        "seconds": float(jnp.median(seconds)),
        "ratio": list(ratio),
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "accepted_fraction": accepted,
    }


def table(rows: list[Row]) -> str:
    """Times, ratios and memory of the last run."""
    return table_of(
        ["task", "candidate", "median time (ms)", "ratio to first", "temporary memory (MB)"],
        [
            [
                row["task"],
                row["candidate"],
                f"{1e3 * row['seconds']:.2f}",
                str(MedianRatio(*row["ratio"])),
                f"{row['temporary_bytes'] / 1e6:.1f}",
            ]
            for row in latest(rows)
        ],
    )
