"""One of several processes that train a model together; run by test_hosts.py, not by pytest.

    python -m tests.several_hosts PROCESS NUM_PROCESSES PORT RESULT

Every process has four of the devices of one mesh, over which the neurons of both layers are spread.
With one process it has all eight, and the same program is the reference. XLA_FLAGS must not set a
number of devices: it would override this one.
"""

import sys

DEVICES = 8


def start(process: int, processes: int, port: int) -> None:
    """Starts JAX, before anything has touched a device."""
    import jax

    jax.config.update("jax_num_cpu_devices", DEVICES // processes)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)


def train_with_collisions() -> dict:
    """The last weights and the losses of a small network, the same on every process."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.experimental import multihost_utils
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    import kinopt

    mesh = jax.make_mesh((DEVICES,), ("x",), axis_types=(AxisType.Explicit,))
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(32, n)).astype(np.float32) for n in (8, 16))
    params = {"body": rng.normal(size=(8, 16)) / 4, "head": rng.normal(size=(16, 16)) / 4}
    body, head = kinopt.layer_mask("body"), kinopt.layer_mask("head")
    optimizer = optax.chain(
        kinopt.soft_collision(0.05, mask=body),
        kinopt.hard_collision(0.5, mask=head, combine="metropolis"),
        kinopt.hard_collision(0.5, mask=head, combine="matching"),
        kinopt.soft_collision(0.05, cell_size=4, mask=body),
        optax.adam(1e-2),
    )

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params["body"]) @ params["head"] - y) ** 2)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    with jax.set_mesh(mesh):
        layout = NamedSharding(mesh, P(None, "x"))
        params = {
            name: jax.make_array_from_callback(
                w.shape, layout, lambda index, w=w: w[index].astype(np.float32)
            )
            for name, w in params.items()
        }
        state = jax.jit(optimizer.init)(params)
        losses = []
        for _ in range(20):
            params, state, value = step(params, state)
            losses.append(float(value))
        if jax.process_count() > 1:
            params = multihost_utils.process_allgather(params, tiled=True)
    return {"losses": np.array(losses)} | {name: np.asarray(w) for name, w in params.items()}


JOBS = [train_with_collisions]
"""Each returns arrays by name, the same on every process; their names must differ."""


def main() -> None:
    """Runs every job; the first process writes what came out."""
    import numpy as np

    process, processes, port = map(int, sys.argv[1:4])
    start(process, processes, port)
    found = {name: array for job in JOBS for name, array in job().items()}
    if process == 0:
        np.savez(sys.argv[4], **found)


if __name__ == "__main__":
    main()
