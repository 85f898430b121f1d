"""Two processes on one machine give the result of one."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent


def without_devices(flags: str) -> str:
    """The tests' settings of the compiler; how many devices there are is up to the processes."""
    return " ".join(flag for flag in flags.split() if "device_count" not in flag)


def run_together(processes: int, result: pathlib.Path) -> dict[str, np.ndarray]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tests.several_hosts"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = without_devices(os.environ["XLA_FLAGS"])
    started = [
        subprocess.Popen(
            [*command, str(n), str(processes), str(port), str(result)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for n in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=400)[0].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "\n".join(outputs)
    return dict(np.load(result))


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path):
    one = run_together(1, tmp_path / "one.npz")
    two = run_together(2, tmp_path / "two.npz")
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert one["losses"][-1] < 0.8 * one["losses"][0]
