"""A logger: `collision_stats` and `ecd_stats` are named tuples of scalars for any of them.

Here a CSV file; with TensorBoard the line is `writer.add_scalar(name, value, step)`. Read numbers
every so many steps only: each reading waits for the device.
"""

import csv
import tempfile

import jax
import jax.numpy as jnp
import optax

import kinopt


def scalars(state):
    """Everything the library can say about a step, as name -> number."""
    named = dict(kinopt.collision_stats(state), descent=kinopt.ecd_stats(state))
    return {
        f"{group}/{name}": float(value)
        for group, stats in named.items()
        for name, value in stats._asdict().items()
        if value is not None  # a hard collision has no gain, a soft one accepts no pairs
    }


optimizer = optax.chain(kinopt.soft_collision(0.05), kinopt.bbi(0.1))
params = {"head": jax.random.normal(jax.random.key(0), (6, 3))}
state = optimizer.init(params)


@jax.jit
def step(params, state):
    """One step of training."""
    value, grads = jax.value_and_grad(lambda p: jnp.mean((p["head"] - 1.0) ** 2))(params)
    updates, state = optimizer.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state


with tempfile.TemporaryFile("w+", newline="") as file:
    writer = csv.DictWriter(file, ["step", *scalars(step(params, state)[1])])
    writer.writeheader()
    for number in range(100):
        params, state = step(params, state)
        if number % 20 == 0:
            writer.writerow({"step": number, **scalars(state)})
    file.seek(0)
    rows = list(csv.DictReader(file))
assert [row["step"] for row in rows] == ["0", "20", "40", "60", "80"]
assert float(rows[-1]["descent/lowest_value"]) < float(rows[0]["descent/lowest_value"])
print(rows[-1]["head/mean_abs_cosine"], rows[-1]["descent/speed"])
