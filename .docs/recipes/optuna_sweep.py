"""Optuna: tune a coefficient, with all seeds of a trial as one compiled program.

The coefficient is an argument of the program, not a constant in it: it is compiled once for all
trials. The seeds share batches and differ in their starts, so trials are compared seed by seed.
Tune the plain optimizer with the same number of trials before you compare (`coll_coef=0`).
"""

import jax
import jax.numpy as jnp
import optax
import optuna

import kinopt

x = jax.random.normal(jax.random.key(0), (128, 8))
y = jnp.argmax(x[:, :3], axis=1)
seeds = jax.random.split(jax.random.key(1), 8)


@jax.jit
def validation_losses(learning_rate, coll_coef):
    """The loss on the held-out half after 50 steps, for each seed."""

    def loss(w, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(x @ w, y).mean()

    def train(key):
        optimizer = optax.chain(kinopt.soft_collision(coll_coef), optax.adam(learning_rate))
        w = jax.random.normal(key, (8, 3))

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w, x[:64], y[:64]), state, w)
            return (optax.apply_updates(w, updates), state), None

        (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), length=50)
        return loss(w, x[64:], y[64:])

    return jax.vmap(train)(seeds)


def objective(trial):
    """The mean over the seeds."""
    learning_rate = trial.suggest_float("learning_rate", 1e-3, 1.0, log=True)
    coll_coef = trial.suggest_float("coll_coef", 0.0, 0.3)
    return float(jnp.mean(validation_losses(learning_rate, coll_coef)))


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=8)
assert validation_losses._cache_size() == 1
print(study.best_params, study.best_value)
