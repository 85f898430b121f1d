"""The order of things: quench, set up, burn in, walk; all anew where a deeper minimum is met."""

import jax
import jax.numpy as jnp
import numpy as np

from kinopt.averages.chains import Modes, Path, Program, Task
from kinopt.averages.doubts import MATTERS
from kinopt.averages.minima import Minima, Quench
from kinopt.averages.readings import Collected, Sums
from kinopt.averages.recipe import Recipe, recipe
from kinopt.averages.walk import WALL, Shell, Walk

__all__ = ["NUM_STRETCHES", "Run"]

NUM_STRETCHES = 10
"""Of a run: the first is the burn-in, after which new minima are looked for."""

MOST_RESTARTS = 5
"""From deeper minima, before it is given up."""

DEEPER = 0.05
"""In units of the coldest temperature: what is deeper by less changes nothing."""

MOST_REFUSED = 0.2
"""Of the steps of the burn-in: above it, the automatic step is halved."""

MOST_HALVINGS = 4


class Run:
    """The walks of one call, started anew until nothing deeper is found."""

    def __init__(self, task: Task, programs, ts, chains, num_times, given, adjust):
        self.task, self.programs, self.ts = task, programs, ts
        self.chains, self.num_times, self.given, self.adjust = chains, num_times, given, adjust
        self.coldest = float(ts.min())
        self.num_gradients = 0

    def collect(self, points: np.ndarray, key: jax.Array) -> Collected:
        """Quenches, then burns in and walks; from a deeper minimum once more."""
        # In one dimension turning round is the only way to turn.
        self.may_shorten = self.given["dt"] is None and self.adjust and points.shape[1] > 1
        number = max(len(points), 2 * self.chains)
        self.quench = Quench(self.task.loss_fn, self.coldest, number, self.programs)
        found = self.quench(points)
        if not len(found.values):
            raise ValueError(
                "no start leads to a minimum of the loss: there must be one with a Hessian that "
                "has no negative eigenvalue. Is the loss bounded below, and finite at the starts?"
            )
        last = None
        for attempt in range(MOST_RESTARTS + 1):
            settings = self.recipe(found)
            lacking = _room(settings, float(found.values[0]))
            if lacking and last is None:
                raise ValueError(lacking)
            if lacking and last is not None:
                return last._replace(reasons=[lacking])
            last, deeper = self.attempt(found, settings, jax.random.fold_in(key, attempt))
            if deeper is None:
                return last
            found = deeper
        assert last is not None
        text = f"deeper minima were still met after {MOST_RESTARTS} new starts"
        return last._replace(reasons=[text])

    def recipe(self, found: Minima) -> Recipe:
        """The settings for these minima."""
        return recipe(
            float(found.values[0]),
            np.asarray(found.hessians[0]),
            int(found.num_zero_modes[0]),
            self.ts,
            self.given,
        )

    def attempt(
        self, found: Minima, settings: Recipe, key: jax.Array
    ) -> tuple[Collected, Minima | None]:
        """Burn-in and walk; and the minima found, where one is deeper than all before."""
        num_zero_modes = int(found.num_zero_modes[0])
        directions = found.x.shape[1] - num_zero_modes
        program = Program(self.task, directions, self.adjust, self.num_times, self.programs)
        keys = jax.random.split(key, self.chains)
        modes = self.modes(found)
        settings, walk = self.burnt_in(program, settings, keys, modes)
        shell = self.shell(settings)
        seen = self.quench(np.concatenate([modes.minimizers, walk.lowest_x, walk.x]))
        after = seen if self.is_deeper(seen, found) else None
        if after is None:
            modes = self.modes(seen if len(seen.values) else found)
        parts, sums, before = [], Sums(self.ts), walk
        for part in range(1, NUM_STRETCHES if after is None else 2):
            walk, path = self.stretch(program, walk, keys, part, shell, modes)
            sums.add(path)
            parts.append(path._replace(observables=None))
        if after is None and np.min(np.asarray(walk.lowest)) < self.deep(found):
            seen = self.quench(walk.lowest_x)
            after = seen if self.is_deeper(seen, found) else None
        bias = np.zeros_like(sums.means()[0])
        if not self.adjust and after is None:
            bias = np.abs(sums.means()[0] - self.halved(program, walk, keys, settings, modes))
        collected = Collected(
            path=Path(*(_joined(part) for part in zip(*parts, strict=True))),
            sums=sums,
            bias=bias,
            shell=shell,
            modes=modes,
            log_det=float(found.log_det[0]),
            num_zero_modes=num_zero_modes,
            settings=settings,
            num_refused=np.asarray(walk.num_refused - before.num_refused),
            num_halted=np.asarray(walk.num_halted),
            num_skipped=np.asarray(walk.num_skipped),
            num_gradients=self.num_gradients + self.quench.num_gradients,
            reasons=[],
        )
        return collected, after

    def burnt_in(self, program, settings, keys, modes) -> tuple[Recipe, Walk]:
        """The first stretch, again with half the step while too many steps are refused."""
        for last in (*[False] * MOST_HALVINGS, True):
            shell = self.shell(settings)
            walk = program.start(self.beginnings(modes, settings), shell)
            walk, _ = self.stretch(program, walk, keys, 0, shell, modes)
            refused = np.mean(np.asarray(walk.num_refused)) / self.num_times
            if last or refused <= MOST_REFUSED or not self.may_shorten:
                return settings, walk
            settings = _shorter(settings)
        raise AssertionError("the last is returned")

    def stretch(self, program, walk, keys, part, shell, modes):
        """A tenth of the steps, of all chains."""
        self.num_gradients += self.chains * self.num_times
        first = jnp.asarray(part * self.num_times)
        return program.go_on(walk, keys, first, shell, modes, jnp.asarray(self.coldest))

    def halved(self, program, walk, keys, settings, modes) -> np.ndarray:
        """The means of a run with half the step, which begins where this one ended."""
        shell, sums = self.shell(_shorter(settings)), Sums(self.ts)
        for part in range(NUM_STRETCHES):
            walk, path = self.stretch(program, walk, keys, NUM_STRETCHES + part, shell, modes)
            if part:
                sums.add(path)
        return sums.means()[0]

    def shell(self, settings: Recipe) -> Shell:
        """The settings as arrays."""
        return Shell(
            f_min=jnp.asarray(settings.f_min, float),
            energy=jnp.asarray(settings.energy, float),
            length=jnp.asarray(settings.length, float),
            bounce_every=jnp.asarray(settings.bounce_every, jnp.int32),
        )

    def modes(self, found: Minima) -> Modes:
        """The minima that can matter at the hottest temperature; one where there is no telling."""
        low = found.values - found.values[0] < MATTERS * self.ts.max()
        if self.task.mode_of is None and found.num_zero_modes.any():
            low = low & (np.arange(len(low)) == 0)
        keep = np.flatnonzero(low)
        return Modes(found.x[keep], found.values[keep], found.hessians[keep])

    def beginnings(self, modes: Modes, settings: Recipe) -> np.ndarray:
        """Where the chains begin: at the minima, in turn."""
        allowed = np.flatnonzero(modes.values < settings.f_min + WALL * settings.energy)
        return modes.minimizers[allowed[np.arange(self.chains) % len(allowed)]]

    def deep(self, found: Minima) -> float:
        """The loss below which a minimum is a deeper one."""
        return float(found.values[0]) - DEEPER * self.coldest

    def is_deeper(self, seen: Minima, found: Minima) -> bool:
        """Whether the lowest of the minima seen is deeper than those found before."""
        return bool(len(seen.values)) and float(seen.values[0]) < self.deep(found)


def _room(settings: Recipe, lowest: float) -> str:
    """What is wrong with f_min or the energy for a lowest minimum; nothing where all is well."""
    if settings.f_min < lowest < settings.f_min + WALL * settings.energy:
        return ""
    bad = "f_min" if settings.f_min >= lowest else "energy"
    return (
        f"{bad} must leave room for the lowest minimum found, at {lowest:.6g}: "
        f"f_min < {lowest:.6g} < f_min + {WALL:g} energy; got f_min = {settings.f_min:.6g} and "
        f"energy = {settings.energy:.6g}."
    )


def _shorter(settings: Recipe) -> Recipe:
    return settings._replace(
        dt=settings.dt / 2, length=settings.length / 2, bounce_every=2 * settings.bounce_every
    )


def _joined(parts) -> np.ndarray | None:
    return None if parts[0] is None else np.concatenate([np.asarray(x) for x in parts], axis=1)
