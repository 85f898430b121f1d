"""A strict session: eight simulated devices, shapes and types of kinopt's functions checked."""

import gc
import os
import signal
import tempfile
from importlib.metadata import version

import hypothesis
import jaxtyping
import pytest

from tests import typecheck

# What is begun in the background of a script is deaf to Ctrl-C, and so are its children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before JAX starts, which reads them once. Tests compile much and compute little.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
if version("jaxlib").startswith("0.10."):  # a third of the time; later versions lack the first flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
if "PYTEST_XDIST_WORKER" not in os.environ:  # all workers share one cache
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="kinopt-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["MPLBACKEND"] = "Agg"

jaxtyping.install_import_hook("kinopt", f"{typecheck.__name__}.check")

# Compilation makes the first example of a shape slow; that is no defect of the code under test.
hypothesis.settings.register_profile("kinopt", deadline=None, max_examples=15, derandomize=True)
hypothesis.settings.load_profile("kinopt")


# Python's collector would go over all of JAX's objects again and again: a tenth of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process, where they share what is compiled."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
