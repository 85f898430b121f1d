"""Would the tests notice? Plants one fault at a time in a copy of the repository, and runs tests.

    python .ci/mutants.py                  # all of them; needs the extra `test`
    python .ci/mutants.py --only lanes     # those in whose line of the list the pattern is found
    python .ci/mutants.py --quick          # only the first tests of each file: ten seconds each
    python .ci/mutants.py --list

A fault is a replacement in a file of `kinopt`. The tests that judge the file are run up to the
first failure: the quick ones first, the wider ones only where the fault lives. In the end the tests
that no fault has passed must pass without one. A fault that survives asks for a test; one that is
none (the same function, in other words) does not belong here.
"""

import argparse
import functools
import importlib
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("kinopt", "tests", "benchmarks", ".docs", ".ci", "pyproject.toml", "README.md")
IMPORTED = (
    *("jax", "optax", "equinox", "flax.linen", "flax.nnx", "scipy.stats"),
    *("pytest", "beartype.claw", "hypothesis.strategies", "anyio", "xdist"),
)

OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore:Module already imported")

LAWS = (
    "tests/test_hard.py -k 'agrees_with_the_paper or TestAcceptance'",
    "tests/test_hard.py",
    "tests/test_collision_safety.py -k 'TestDefaults or TestStatistics'",
    "tests/test_gas.py tests/test_draws.py tests/test_collisions.py",
)
ROWS = ("tests/test_metrics.py tests/test_soft.py", *LAWS)
LEAVES = (
    "tests/test_collisions.py -k 'schedule or batch or leaves or steps or accident or statistics'",
    "tests/test_collisions.py",
    "tests/test_draws.py tests/test_cells.py",
)
DESCENT = (
    "tests/test_descent.py tests/test_descent_state.py tests/test_bounces.py -k 'algorithm_1 or "
    "authors or rotation or power or frozen or above_the_energy or equal_loss'",
    "tests/test_descent_state.py tests/test_descent_arrival.py tests/test_bounces.py",
    "tests/test_descent.py tests/test_descent_types.py tests/test_descent_derivatives.py",
)
ENSEMBLE = (
    "tests/test_ensemble_steps.py tests/test_ensemble.py -k 'turns or best or number or order or "
    "records or wins or keys_of_any'",
    "tests/test_ensemble_steps.py",
    "tests/test_ensemble.py",
)
LAYERS = ("kinopt/layers tests/test_layers.py", LEAVES[0])
BASINS = (
    "tests/test_basins.py -k 'by_hand or rim or nearest or own or dwell or z_s'",
    "kinopt/basins tests/test_basins.py",
)
METRICS = (
    "tests/test_metrics.py -k 'loops or singular or order_and or TestReport or hermitian "
    "or rounding'",
    "kinopt/metrics tests/test_metrics.py",
)
THEORY = ("tests/test_theory.py", "tests/test_theory_limits.py")


FAULTS = {
    # File: what judges it, the quick before the wide; then old text, new text.
    "collisions/soft.py": (
        (
            "kinopt/collisions/soft.py tests/test_soft.py tests/test_collision_safety.py -k soft",
            "tests/test_cells.py",
            LEAVES[0],
        ),
        ("1 / neurons if", "2 / neurons if"),
        ("jnp.sum(jnp.abs(m), axis=1),", "jnp.sum(m, axis=1),"),
        ("c / jnp.where(norm > 0, norm, 1)", "c / jnp.where(norm > 1, norm, 1)"),
        ("(neurons - 1.0), 1.0)", "neurons, 1.0)"),
        ("brake + itself * g if self_term", "brake if self_term"),
        ("jnp.sign(me.w.inverse_norm * me.g.inverse_norm)", "jnp.ones(len(g), g.dtype)"),
        ("met.row_norms + itself if", "met.row_norms if"),
        (
            "jnp.where(itself, 0, cos_w * cosines(mine.g, other.g))",
            "cos_w * cosines(mine.g, other.g)",
        ),
        ("jnp.where(c == 0, g, g - c * whole)", "g - c * whole"),
        ("gain, pair_effect = c * norm,", "gain, pair_effect = norm,"),
    ),
    "collisions/hard.py": (
        (
            "tests/test_hard.py tests/test_collision_safety.py -k 'agrees_with_the_paper or "
            "TestAcceptance or pair_effect'",
            *LAWS[1:],
        ),
        ("(features**0.5 if", "(features if"),
        ("w_scale / (", "1 / ("),
        ("change * (1 / of_g.unit)", "change"),
        ("squared_ratio(change, of_g._r", "squared_ratio(g, of_g._r"),
    ),
    "collisions/partners.py": (
        (
            "tests/test_hard.py -k 'border or TestIdentities or matching or equal_rows or agrees'",
            *LAWS,
        ),
        ("jnp.exp(-w_r) > (1 - coll_coef)", "jnp.exp(-w_r) >= (1 - coll_coef)"),
        ("g_r > 0, by_eq_7", "g_r >= 0, by_eq_7"),
        ("& (coll_coef > 0)", "& (coll_coef >= 0)"),
        ("coll_coef >= 1,", "coll_coef > 1,"),
        ("GRAM_ROUNDING = 8", "GRAM_ROUNDING = 0"),
        ("(own - w.rows", "(own + w.rows"),
        ("T - g.rows @ other_w", "T + g.rows @ other_w"),
        ("jnp.min(order, axis=1), jnp.max(order, axis=1)", "order[:, 0], order[:, 1]"),
        ("random_order(key, neurons)[: ", "jnp.arange(neurons)[: "),
    ),
    "collisions/all_pairs.py": (
        (
            "kinopt/collisions/all_pairs.py tests/test_hard.py tests/test_collision_safety.py -k "
            "'all_pairs or agrees or test_stats or covariance or TestAcceptance or auto_'",
            *LAWS[1:],
        ),
        ("pairs = neurons * (neurons - 1) / 2", "pairs = neurons * neurons / 2"),
        ("squared_distances(mine.g, other.g, crowd), axis=1", "mine.g, axis=1"),
        ("jnp.maximum(degree_i, degree_j)", "jnp.minimum(degree_i, degree_j)"),
        ("(2 * features**0.5)", "(2 * features)"),
        ("a * restitution * g_r", "a * g_r"),
        ("crowd.total(census.cosines) / 2 / pairs", "crowd.total(census.cosines) / pairs"),
        ("accepted > 2 * neurons +", "accepted < 2 * neurons +"),
        ("jnp.where(by_factor, at_once(), change)", "at_once()"),
        ("pair_by_pair(~by_factor)", "pair_by_pair(by_factor)"),
        ("length_j**2 - squared_distance", "length_j**2 + squared_distance"),
        ("centred(gas.w, gas.of_w, crowd)", "gas.w * gas.of_w"),
    ),
    "collisions/scattering.py": (
        (
            "kinopt/collisions/scattering.py tests/test_hard.py -k 'scattering or a_pool or "
            "agrees_with_the_paper or block_size'",
            *LAWS[1:],
        ),
        ("g_i + restitution * g_r", "g_i + g_r"),
        ("(g_j - g_i + ", "(g_i - g_j + "),
        ("([dg, -dg])", "([dg, dg])"),
        ("(n <= total)", "(n <= total + 1)"),
        ("return done < total", "return done + chunk <= total"),
        ("(ag - d * g) / 2", "ag - d * g"),
        ("jnp.uint32(1) == 1) == (i < j)", "jnp.uint32(1) == 1)"),
        ("pool_rows(key, n * size, size, g", "pool_rows(key, 0, size, g"),
        ("(i[:, None] + j[None]) % neurons", "(j[None] + 0 * i[:, None]) % neurons"),
        ("gaussian / jnp.sqrt(length_sq)", "gaussian"),
    ),
    "collisions/matching.py": (
        ("tests/test_hard.py -k matching", *LAWS[1:]),
        ("place % 2 == 0, change", "place % 2 == 1, change"),
        ("jnp.where(place < 0, 0,", "jnp.where(place < -1, 0,"),
        ("w_i - w_j)) * gas.unit", "w_i - w_j))"),
        ("g_i - g_j) > 0", "g_i - g_j) < 0"),
        ("crowd.largest(cosines),", "jnp.mean(cosines),"),
    ),
    "collisions/cells.py": (
        ("tests/test_cells.py", "tests/test_draws.py"),
        ("num_cells = -(-neurons // cell_size)", "num_cells = neurons // cell_size"),
        ("fold(key, cell, CELL)", "fold(key, 0, CELL)"),
        ("num_keys=2", "num_keys=1"),
        ("float(candidates(members.shape[1]))", "1.0"),
        ("cell_size >= neurons", "cell_size > neurons"),
        ("jnp.where(place >= 0, home", "jnp.where(place > 0, home"),
    ),
    "collisions/draws.py": (
        (
            "tests/test_draws.py -k 'word or places or normals or order or digits'",
            "tests/test_draws.py",
        ),
        ("second + jnp.asarray(j, first.dtype)", "second + jnp.asarray(i, first.dtype)"),
        ("jnp.full(place.shape, purpose)", "jnp.full(place.shape, DIRECTION)"),
        ("data[2], data[3])", "data[2], data[2])"),
        ("is None else places", "is None else places + 1"),
        ('f"{law} {path}"', 'f"{path}"'),
        ("places, bits)", "places)"),
    ),
    "_threefry.py": (
        ("tests/test_threefry.py",),
        ("(17, 29, 16, 24)", "(17, 29, 16, 25)"),
        ("ROTATIONS[group % 2]", "ROTATIONS[0]"),
        ("schedule[(group + 1) % 3]", "schedule[group % 3]"),
        ("np.uint32(group + 1)", "np.uint32(group)"),
        ("x.astype(jnp.uint64) << 32 | y", "x.astype(jnp.uint64) << 32 | x"),
        ("info.bits - info.nmant", "info.bits - info.nmant + 1"),
        ("fraction * (1 - low) + low", "fraction"),
        ("and partitionable and", "and"),
        (" and is_threefry(key.dtype)", ""),
    ),
    "collisions/rows.py": (
        ("kinopt/collisions/rows.py tests/test_rows.py", *ROWS),
        ("jnp.multiply, x, (1 / divisor)[:, None]", "jnp.add, x, 0 * divisor[:, None]"),
        ("jnp.where(is_zero, -jnp.inf, -_power", "(-_power"),
        ("jnp.where(smallest == jnp.inf, 1, smallest)", "smallest"),
        ("jnp.square(divisor * unit) * squared", "jnp.square(unit) * squared"),
        ("jnp.where(largest == 0, 1, clipped)", "clipped"),
        ("(new - old) * (new + old)", "(new - old) * (new - old)"),
        ("unit / len(x), x.dtype", "unit, x.dtype"),
        ("squares[0, 0] / (neurons * ", "squares[0, 0] / ("),
    ),
    "collisions/crowd.py": (
        ("tests/test_crowd.py", "tests/test_devices.py"),
        ("return reduce(function(*arrays), axis=1)", "return reduce(function(*arrays), axis=0)"),
        ("for x in arrays)).T", "for x in arrays))"),
        ('jnp.maximum if name.startswith("max_") else jnp.add', "jnp.add"),
        ("self.over_neurons(jnp.max(x), jax.lax.pmax)", "jnp.max(x)"),
        (
            "fori_loop(1, self.num_parts, visit, first)",
            "fori_loop(2, self.num_parts, visit, first)",
        ),
        ("return change + own", "return change"),
        ("mine < items", "mine <= items"),
        ("x.shape[1] * self.num_feature_parts", "x.shape[1]"),
        ("jnp.zeros_like(x).at[rows].set(x)", "x"),
    ),
    "collisions/per_leaf.py": (
        (
            "tests/test_collisions.py tests/test_collision_safety.py tests/test_cells.py -k "
            "'schedule or accident or slices or steps_draw or leaves_of or announced or not_fit or "
            "every_k'",
            *LEAVES[1:],
        ),
        ("jnp.where(finite, x, old)", "x"),
        ("jnp.where(finite, seen, 0)", "seen"),
        ("jnp.sum(lost)) == 0", "jnp.sum(lost)) >= 0"),
        ("count % scheme.every == 0", "count % scheme.every == 1"),
        ("fold(named, count, number)", "fold(named, count, 0)"),
        ("fold(named, count, number)", "fold(named, 0, number)"),
        ("law.state.__name__, leaf.path)", 'law.state.__name__, "")'),
        ("neurons > LARGE_LAYER", "neurons >= LARGE_LAYER"),
        ("is_maximum(), maxima, means)", "is_maximum(), means, means)"),
        ("jnp.sum(skipped), leaf", "jnp.max(skipped).astype(int), leaf"),
        ("coll_coef(state.count) if", "coll_coef(state.count + 1) if"),
    ),
    "collisions/stats.py": (
        ("tests/test_collisions.py -k 'uphill or third or statistics'", *LEAVES),
        ('joined[self.fields.index("gain")] > 1', 'joined[self.fields.index("gain")] > 2'),
        ("before + counts", "counts"),
        ('frozenset({"gain", "max_abs_cosine"})', 'frozenset({"gain"})'),
        ('frozenset({"gain", "max_abs_cosine"})', 'frozenset({"max_abs_cosine"})'),
        ("energy_ratio(after, g, of_g, crowd)", "energy_ratio(g, after, of_g, crowd)"),
        ("getattr(seen, name) * weights", "getattr(seen, name)"),
        ("number += 1", "number += 2"),
        ("stats.num_uphill > 0", "stats.num_uphill > 1"),
        ("stats.num_skipped > 0", "stats.num_skipped >= 0"),
    ),
    "isokinetic.py": (
        ("tests/test_isokinetic.py -k 'written or orbit or decay or accident or below or large'",),
        ("(peak if cool else rate)", "rate"),
        ("(rate / peak)", "1"),
        ("state.count % MEASURED_EVERY != 0", "True"),
        ("2 * of_u[-1] * of_g[-1] * u_g", "of_u[-1] * of_g[-1] * u_g"),
        ("num_clamped=state.num_clamped + (gap <= 0)", "num_clamped=state.num_clamped + (gap > 0)"),
        ("jnp.where(good, rate, 0)", "rate"),
    ),
    "diagonal_metric.py": (
        ("tests/test_diagonal_metric.py",),
        ("axis=axes[-1:], keepdims", "axis=axes, keepdims"),
        ("jnp.where(good, weight * old", "jnp.where(True, weight * old"),
        ("c / jnp.sqrt(jnp.asarray(square", "c / (0 * jnp.asarray(square"),
        ("(shares(r, jnp.mean(r))", "(shares(r, jnp.max(r))"),
        ("_scaled(params, factors, jnp.divide)", "params"),
        ("return _scaled(moved, factors)", "return moved"),
    ),
    "spheres.py": (
        ("tests/test_spheres.py", "tests/test_isokinetic.py"),
        ("self.size / max(group.size - 1, 1)", "1"),
        ("math.sqrt(self.share(group)) * ", ""),
        ("return group.size / max(self.size, 1)", "return 1.0"),
        ("leaf.sizes[2] > 1", "leaf.sizes[2] > 0"),
        ("2 * x / (towards + against)", "x / (towards + against)"),
        (" - keeps * along", ""),
        ("(leaf.shape, leaf.axes).features", "(leaf.shape, leaf.axes).neurons"),
    ),
    "dynamics.py": (
        DESCENT,
        ("(force.astype(dtype) * shell.slope)", "force"),
        ("jnp.where(asks & ~shell.arrived,", "jnp.where(asks,"),
        ("bounced = wanted & ~shell.arrived", "bounced = wanted"),
        ("progressed=loss < state", "progressed=loss <= state"),
        (
            "jnp.where(seen.waits, 0, scheme.kick_after * seen.kick)",
            "scheme.kick_after * seen.kick",
        ),
        ("seen.dt / 2 * shell.slope", "seen.dt * shell.slope"),
        ("seen.moving & ~seen.waits", "seen.moving"),
        ("aim.good & seen.halted", "aim.good"),
        ("seen.moving & shell.exceeded", "shell.exceeded"),
        ("aim.good & seen.progressed & ~seen.waits, loss", "aim.good & ~seen.waits, loss"),
        ("jnp.where(seen.first | aim.starts, 0, error)", "error"),
        ("settings.key), state.count)", "settings.key), 0)"),
        ("jnp.asarray(rule.nu, dtype) ** 2", "jnp.asarray(rule.nu, dtype)"),
        ('"count": aim.good', '"count": seen.moving'),
        ("(seen.first | lost)", "seen.first"),
        ("jnp.where(keeps, found, scale * found)", "scale * found"),
        ("before = before._replace(num_skipped=optax", "_ = before._replace(num_skipped=optax"),
    ),
    "shell.py": (
        (
            "tests/test_shell.py tests/test_descent.py tests/test_descent_arrival.py "
            "tests/test_descent_state.py -k 'shell or power or wide_types or climb or frozen'",
            *DESCENT,
        ),
        ("~(potential > eps2)", "~(potential >= eps2)"),
        ("power * v / above", "v / above"),
        ("(asked_sq < 0) & ~first", "asked_sq < 0"),
        ("max(eps, float(jnp.finfo(jnp.float32).eps))", "eps"),
        (" & ~climbs", ""),
        ("start + extra_energy, first", "start, first"),
        ("ROUNDING = 8", "ROUNDING = 0"),
    ),
    "bounces.py": (
        ("tests/test_bounces.py", *DESCENT),
        ("here = counters.clock ==", "here = counters.clock >="),
        ("restart = 0 if nu is None else 1", "restart = 0"),
        ("(num_fixed < jnp", "(num_fixed <= jnp"),
        ("ticks = due | ~bounced", "ticks = ~bounced"),
        ("ticks = due | ~bounced", "ticks = due | ~due"),
        ("counters.waited ==", "counters.waited + 1 =="),
        ("bounced | progressed, jnp", "bounced, jnp"),
        ("jnp.int32) > 0)", "jnp.int32) >= 0)"),
    ),
    "momenta.py": (
        ("tests/test_momenta.py", *DESCENT),
        ("scale - 2 * kick * projected", "scale - kick * projected"),
        ("CANCELLATION = 1e-2", "CANCELLATION = -1.0"),
        ("noise.dtype, keep * pull", "noise.dtype, -keep * pull"),
        ("jnp.where(draws, new.astype(pi.dtype), pi)", "new.astype(pi.dtype)"),
        ("float(jnp.finfo(dtype).max) ** 0.5 / 2", "float(jnp.finfo(dtype).max)"),
    ),
    "brackets.py": (
        ("kinopt/brackets.py tests/test_brackets.py", *DESCENT),
        ("jnp.where(reached, 2 * gap", "jnp.where(reached, gap"),
        ("waited >= QUIET_STEPS", "waited > QUIET_STEPS"),
        ("jnp.where(quiet, 0, waited)", "waited"),
        ("jnp.maximum(f_min, below)", "f_min"),
        ("reached = loss <= f_min", "reached = loss < f_min"),
        ("RESOLUTION = 8", "RESOLUTION = 0"),
    ),
    "descent_stats.py": (
        (
            "kinopt/descent_stats.py tests/test_descent_stats.py tests/test_descent_state.py "
            "tests/test_descent_arrival.py -k 'descent_stats or something_else or says'",
            *DESCENT,
        ),
        ("len(value) > 8", "len(value) > 7"),
        ("len(found) != 1", "len(found) < 1"),
        ("(stats.num_halted > 0) & ", "(stats.num_halted > 0) | "),
    ),
    "time_step.py": (
        ("kinopt/time_step.py tests/test_time_step.py",),
        ("dominant < 0,", "dominant > 0,"),
        ("dominant + _dominant(", "_dominant("),
        ("not curvature > 0", "not curvature >= 0"),
    ),
    "trees.py": (
        ("kinopt/trees.py tests/test_trees.py",),
        ("jnp.where(condition, new, old)", "jnp.where(condition, old, new)"),
        ("a.astype(dtype) * b.astype(dtype)", "a * b"),
        ("jnp.conj(a) * b", "a * b"),
        ("start += size", "start += 0"),
        ("jax.random.fold_in(key, n)", "key"),
    ),
    "layers/leaves.py": (
        LAYERS,
        ("len(shape) < 2", "len(shape) < 1"),
        ("neurons > 1 and", "neurons > 0 and"),
    ),
    "layers/axes.py": (LAYERS, ("key=lambda i: order[i]", "key=lambda i: i")),
    "layers/masks.py": (LAYERS, ("any(find(path) for", "all(find(path) for")),
    "_training.py": (
        ENSEMBLE,
        ("(finite, outcome, FAILED)", "(finite | (count > 5), outcome, FAILED)"),
        ("finite & (value <", "finite & (count > 0) & (value <"),
        ("finite & (value <", "(value <"),
        ("count > 0, said", "count >= 0, said"),
        ("return value if name in self.keep else None", "return value"),
        ("trees.where(flag, new, old), lambda: old", "new, lambda: old"),
        ("problem.num_steps + 1", "problem.num_steps + 2"),
        ("jax.tree.map(jnp.conj, grad)", "grad"),
        ("jnp.where(ended, old, new)", "new"),
    ),
    "_minibatches.py": (
        ("kinopt/_minibatches.py tests/test_ensemble_batches.py",),
        ("fold_in(key, SHUFFLE), epoch", "fold_in(key, SHUFFLE), 0 * epoch"),
        ("place * self.batch_size + ", ""),
        ("fold_in(key, DRAW), step", "fold_in(key, DRAW), epoch"),
        ("numbers[0] < size", "numbers[0] <= size"),
    ),
    "_line.py": (
        ENSEMBLE,
        ("trees.where(ends, now, kept)", "now"),
    ),
    "_advance.py": (
        ENSEMBLE,
        ("lanes.ended & (lanes.seed < length)", "lanes.ended"),
        ("source.keys[row]", "source.keys[0 * row]"),
        ("searchsorted(rank, jnp.arange(number))", "searchsorted(rank, 1 + jnp.arange(number))"),
        ("jnp.where(free, source.length, seeds)", "seeds"),
        ("line.num_started + started", "line.num_started + ended"),
    ),
    "_engine.py": (
        ENSEMBLE,
        ("n * size + np.asarray", "np.asarray"),
        ("where[seed])", "seed)"),
        ("where >= 0", "where > 0"),
        ("return lines, numbers != lengths", "return lines, False"),
    ),
    "_checkpoint.py": (
        ("kinopt/ensemble.py tests/test_ensemble_checkpoint.py tests/test_loop_checkpoint.py",),
        ("self.written[share] = number\n        ended", "ended"),
        ("share * size", "0"),
        ("order = np.argsort(leaves[0])", "order = np.arange(len(leaves[0]))"),
        ("if found and about[name] != found.get(name)", "if False"),
        ("LOCK_EX", "LOCK_SH"),
        ("self.written[share] = 0", "pass"),
    ),
    "_workers.py": (
        ENSEMBLE,
        ("min(size, num_seeds - begin)", "size"),
        ("min(size, CPU_LANES[1]) if build.is_single else size", "size"),
    ),
    "_scalar_rules.py": (
        ("tests/test_scalars.py",),
        ("(new != new)", "(new == new)"),
        ("(best == best)", "(best != best)"),
        ("slice(low, low + size)", "slice(0, size)"),
        ("[n for n in range(x.ndim) if n not in axes]", "list(axes)"),
        ('steps = eqn.params["strides"] or (1,) * x.ndim', "steps = (1,) * x.ndim"),
    ),
    "_scalars.py": (
        ("tests/test_scalars.py",),
        ("return KeyParts(found) if keys", "return KeyParts(found[::-1]) if keys"),
        ("0 < math.prod(x.shape) <= MOST_ENTRIES", "0 < math.prod(x.shape)"),
        ("(name in MAKERS or any(map(is_apart, given)))", "name in MAKERS"),
        ("jnp.asarray(n, like.dtype)", "n"),
    ),
    "lanes.py": (
        ("kinopt/lanes.py tests/test_lanes.py",),
        ("carry, rows.outcome, rows.num_steps", "carry, rows.outcome, rows.num_steps - 1"),
        ("wrap_key_data(data, impl=impl)", "wrap_key_data(data)"),
    ),
    "ensemble.py": (
        (
            "kinopt/ensemble.py tests/test_ensemble_steps.py -k 'kinopt or best or records'",
            *ENSEMBLE,
        ),
        ("num_steps = rows.num_steps - 1", "num_steps = rows.num_steps"),
        ("1 + problem.num_steps // steps", "problem.num_steps // steps"),
        ("jnp.concatenate(x)[:num_seeds]", "jnp.concatenate(x)"),
    ),
    "basins/quadratic.py": (
        BASINS,
        ("jnp.min(eta_sq) < 1", "jnp.min(eta_sq) <= 1"),
        ("jnp.argmin(eta_sq)", "jnp.argmax(eta_sq < 1)"),
        ("1e-5 * np.abs(curvatures).max(axis=(1, 2))", "1e-5 * np.abs(curvatures).max()"),
    ),
    "basins/entries.py": (
        BASINS,
        ("(4 * n**2)", "(2 * n**2)"),
        ("(p + Z95**2 / (2 * n))", "(p + Z95**2 / n)"),
        ("jnp.sqrt(n * p * (1 - p))", "jnp.sqrt(n * p)"),
        ("counts / decided", "counts / len(outcome)"),
        ("jnp.sum(outcome == 0", "jnp.sum(outcome <= 0"),
        ("jnp.cumsum(found[:, :2], axis=0)", "jnp.cumsum(found[:, :2], axis=1)"),
    ),
    "basins/stays.py": (
        BASINS,
        ("(state.time - start) // length", "state.time // length"),
        ("state.time >= start", "state.time > start"),
    ),
    "basins/flow.py": (
        ("tests/test_flow.py -k rastrigins", "tests/test_flow.py"),
        ("-17253 / 339200", "17253 / 339200"),
        ("finite & (error <= 1)", "finite & (error <= 1e9)"),
        ("(value <= known.largest_value)", "(value > known.largest_value)"),
        ("np.mean(differs[arrived])", "np.mean(differs)"),
    ),
    "basins/passes.py": (
        ("tests/test_flow.py -k 'passes or saddles or pairs'", "tests/test_flow.py"),
        ("np.maximum(passes[:, k, None], passes[k])", "passes[:, k, None] + passes[k]"),
        ("np.minimum(lower, highest)", "lower"),
        ("np.maximum(values[first], values[second])", "values[first]"),
    ),
    "basins/bands.py": (
        ("tests/test_flow.py -k saddles", "tests/test_flow.py"),
        ("2 * along - gradients, along", "along - gradients, along"),
        ("climbs & top & (here > before)", "climbs & (here > before)"),
        ("(1 - part) * x[piece] + part * x[piece + 1]", "x[piece]"),
    ),
    "plots/minima.py": (
        ("tests/test_flow.py -k tree", "tests/test_flow.py"),
        ("np.argmin(between)", "np.argmax(np.where(np.isfinite(between), between, -1))"),
        ("np.where(np.isnan(heights), np.inf, heights)", "heights"),
    ),
    "metrics/neurons.py": (
        METRICS,
        ("max(len(w) * (len(w) - 1), 1)", "len(w) ** 2"),
        ("unit.conj(), unit.T", "unit, unit.T"),
        (
            "_off_diagonal(cosine_similarity(w).real)",
            "_off_diagonal(jnp.abs(cosine_similarity(w)))",
        ),
        ("NEAR_COPY = 0.9", "NEAR_COPY = 0.99"),
        ("jnp.clip(cosines, -1, 1)", "cosines"),
    ),
    "metrics/table.py": (
        METRICS,
        ("jnp.mean(jnp.exp(disorder))", "jnp.exp(jnp.mean(disorder))"),
        ("jnp.max(jax.vmap(neuron_similarity)", "jnp.mean(jax.vmap(neuron_similarity)"),
        ("g.shape[1] * jnp.sum", "g.shape[2] * jnp.sum"),
        ("jnp.all(batch == 0, axis=2)", "jnp.any(batch == 0, axis=2)"),
    ),
    "hamiltonians.py": (
        (
            "kinopt/hamiltonians.py tests/test_hamiltonians.py tests/test_descent.py -k "
            "'hamiltonians or authors'",
            *DESCENT,
        ),
        ("return 2 * jax.grad(", "return jax.grad("),
        ('drift="kicked"', 'drift="shell"'),
        ("(e - v) * ((e + v) / v)", "(e**2 - v**2) / v"),
        ("range(4)", "range(3)"),
        ("jnp.sqrt(2 * e * v)", "jnp.sqrt(e * v)"),
        ("speed_limit=lambda v, e: 1 / jnp.sqrt", "speed_limit=lambda v, e: jnp.sqrt"),
    ),
    "theory/density.py": (
        ("tests/test_theory.py -k 'eq_4 or the_density or fractions'", *THEORY),
        ("(n - 2) / 2, q)", "(n - 1) / 2, q)"),
        ("- jnp.log(velocity_factor", "+ jnp.log(velocity_factor"),
        ("2 * height), -jnp.inf", "height), -jnp.inf"),
        ("* nodes * scale) + nodes**2", "* nodes * scale)"),
    ),
    "theory/generalization.py": (
        ("tests/test_theory.py -k 'theorem or kl_term'", *THEORY),
        ("(2 * samples - 2)", "(2 * samples)"),
        ("jnp.log(samples / delta)", "jnp.log(1 / delta)"),
        ("return -size / 2 *", "return -size *"),
        ("optional=False) - 1", "optional=False)"),
    ),
    "theory/rates.py": (
        ("tests/test_theory_limits.py -k closed_forms", *THEORY),
        ("jnp.sqrt(curvature / 2)", "jnp.sqrt(curvature)"),
        ("return curvature / friction", "return curvature * friction"),
    ),
    "theory/regions.py": (
        (
            "kinopt/theory/regions.py tests/test_theory.py -k 'regions or region or flux or "
            "directions or converged or turned or slope'",
            *THEORY,
        ),
        ("(n - 1) / 2 * jnp.log(q) + stretch", "n / 2 * jnp.log(q) + stretch"),
        ("jnp.log(q) + stretch", "jnp.log(q)"),
        ("log1p(0.5 / v_min)", "log1p(1 / v_min)"),
        ("gammaln((n + 1) / 2)", "gammaln(n / 2 + 1)"),
        ("(n - 2) * jnp.log(eta)", "(n - 1) * jnp.log(eta)"),
        ("jnp.concatenate([half, -half])", "jnp.concatenate([half, half])"),
        ("factor.T, directions.T, lower=False", "factor, directions.T, lower=True"),
    ),
    "theory/ratios.py": (
        ("kinopt/theory/ratios.py tests/test_theory.py -k 'ratio or region or flux'", *THEORY),
        ("jnp.exp(first - second)", "jnp.exp(second - first)"),
    ),
    "theory/volumes.py": (
        ("tests/test_theory.py -k 'eq_47 or eq_18 or volume'", *THEORY),
        ("(n / 2 - 1) * jnp.log(2.0)", "n / 2 * jnp.log(2.0)"),
        ("(n - 1) * jnp.log(energy)", "n * jnp.log(energy)"),
        ("jnp.log1p(2 * v_min)", "jnp.log1p(v_min)"),
        ("jnp.where(both_zero, 0, integrals)", "integrals"),
        ("integrals = _log_basin_integral(n, v_min_1) -", "integrals = -"),
    ),
    "theory/_numerics.py": (
        ("tests/test_theory.py -k 'eq_4 or eq_18 or volume'", *THEORY),
        ("pivots**2 > rounding", "pivots > 0"),
        ("jnp.log(2.0) + n / 2", "jnp.log(1.0) + n / 2"),
    ),
}


def main() -> int:
    """Runs what was asked for; fails where a fault survived."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression")
    parser.add_argument("--list", action="store_true", help="name them and run nothing")
    parser.add_argument("--quick", action="store_true", help="only the first tests of each file")
    parser.add_argument("--slow", action="store_true", help="slow tests, too")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a run of tests")
    asked = parser.parse_args()

    faults = [
        (f"kinopt/{file}", old, new, judges[:1] if asked.quick else judges)
        for file, (judges, *pairs) in FAULTS.items()
        for old, new in pairs
        if re.search(asked.only, f"kinopt/{file}: {old}  ->  {new}")
    ]
    stale = [
        f"{file} holds {old!r} {occurs} times; a fault's text occurs once"
        for file, old, _, _ in faults
        if (occurs := (ROOT / file).read_text().count(old)) != 1
    ]
    if stale:
        raise SystemExit("\n".join(stale))
    if asked.list:
        for file, old, new, _ in faults:
            print(f"{file}: {old}  ->  {new}")
        return 0

    with tempfile.TemporaryDirectory(prefix="kinopt-mutants-") as folder:
        copy = Path(folder) / "copy"
        _copy_to(copy)
        _prepare(Path(folder) / "cache")
        run = functools.partial(_run, copy, slow=asked.slow, timeout=asked.timeout)
        survivors, passed, began = [], set(), time.monotonic()
        for number, (file, old, new, judges) in enumerate(faults, 1):
            since = time.monotonic()
            said = "SURVIVED"
            for tests in judges:
                result = _with_fault(copy / file, old, new, number, lambda tests=tests: run(tests))
                if result != 0:
                    said = "timeout, counts as caught" if result is None else "caught"
                    break
                passed.add(tests)
            else:
                survivors.append((file, old, new))
            seconds = time.monotonic() - since
            place = f"{number}/{len(faults)}"
            print(f"{place} {said}, {seconds:.0f} s: {file}: {old}  ->  {new}", flush=True)
        # Tests that no fault has passed might fail for a reason of their own.
        for tests in dict.fromkeys(tests for *_, judges in faults for tests in judges[:1]):
            if tests not in passed and run(tests) != 0:
                log = (copy.parent / "log").read_text()[-2000:]
                raise SystemExit(f"{log}\n{tests} fails without any fault")
        average = (time.monotonic() - began) / max(len(faults), 1)
    print(f"{len(faults) - len(survivors)} of {len(faults)} caught, {average:.0f} s each")
    for file, old, new in survivors:
        print(f"survived: {file}: {old}  ->  {new}")
    return 1 if survivors else 0


def _copy_to(copy: Path) -> None:
    copy.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)


def _prepare(cache: Path) -> None:
    """Imports once what each run needs, with the settings of `tests/conftest.py`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["PYTEST_XDIST_WORKER"] = "mutants"  # else conftest makes a cache for each run
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    # Programs that a fault leaves as they are come from the cache, the smallest too: JAX has read
    # this when conftest asks for less.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    for name in IMPORTED:
        importlib.import_module(name)


def _with_fault(file: Path, old: str, new: str, number: int, run):
    """What `run` says while the text is replaced."""
    right, times = file.read_text(), file.stat()
    file.write_text(right.replace(old, new))
    os.utime(file, (number, number))  # Python tells compiled files by time and length
    try:
        return run()
    finally:
        file.write_text(right)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _run(copy: Path, tests: str, *, slow: bool, timeout: float) -> int | None:
    """Exit status of pytest in a process of its own; None where it took too long."""
    process = os.fork()
    if process == 0:
        _become_pytest(copy, [*shlex.split(tests), *([] if slow else ["-m", "not slow"])])
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                process = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        return None
    finally:
        if process:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _become_pytest(copy: Path, arguments: list[str]) -> None:
    status = 1
    try:
        os.chdir(copy)
        log = os.open(copy.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        import pytest

        status = int(pytest.main([*OPTIONS, *arguments]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
