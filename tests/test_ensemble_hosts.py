"""Two processes, as two hosts would be: the same seeds end as they do in one."""

import itertools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from kinopt import ensemble

ROOT = pathlib.Path(__file__).parent.parent

HOST = """
import functools, sys
import jax, jax.numpy as jnp, numpy as np, optax
import kinopt

index, count, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
mesh = jax.make_mesh((jax.device_count(),), ("seeds",))
landscape = kinopt.landscapes.two_basins()
hessians = np.stack([0.864 * np.eye(2), 1.664 * np.eye(2)])
run = functools.partial(
    kinopt.ensemble.run,
    landscape.fn,
    lambda key: kinopt.bbi(1e-2, f_min=1e-3, fixed_bounce_every=20, patience=750, key=key),
    jnp.array([10.0, -10.0]),
    jax.random.split(jax.random.key(3), 21),
    num_steps=3000,
    stop=kinopt.basins.quadratic_basins(landscape.minimizers, hessians),
    lanes=4,
    mesh=mesh,
)
result, folder = run(), f"{out}/folder-{count}"
for name, found in (
    ("plain", result),
    ("written", run(checkpoint=folder)),
    ("read again", run(checkpoint=folder)),
):
    leaves = [np.asarray(x) for x in jax.tree.leaves(found)]
    np.savez(f"{out}/{name}-{count}-{index}", *leaves)
print("devices", jax.device_count(), "seeds", result.seed.shape[0])
"""


def run_hosts(count: int, devices: int, folder: pathlib.Path) -> None:
    """The same program in `count` processes of `devices` devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = dict(os.environ) | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        # The last of two numbers of devices counts.
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    }
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(n), str(count), port, str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(count)
    ]
    for host in hosts:
        printed, _ = host.communicate(timeout=300)
        assert host.returncode == 0, printed
        assert f"devices {count * devices} seeds 21" in printed


@pytest.mark.slow
def test_an_ensemble_over_two_hosts_is_that_of_one(tmp_path):
    """In numbers, through a folder that both write to, and read again from it."""
    run_hosts(1, 2, tmp_path)
    run_hosts(2, 1, tmp_path)
    alone = np.load(tmp_path / "plain-1-0.npz")
    for index, kind in itertools.product((0, 1), ("plain", "written", "read again")):
        host = np.load(tmp_path / f"{kind}-2-{index}.npz")
        assert host.files == alone.files
        for name in alone.files:
            np.testing.assert_array_equal(host[name], alone[name])
    one, two = (ensemble.read(tmp_path / f"folder-{count}") for count in (1, 2))
    assert len(two.seed) == 21
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(x, y)
