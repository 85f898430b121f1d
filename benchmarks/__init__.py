"""Experiments: one file for each table, figure or question, and a demo on real digits.

Run `python -m benchmarks list` to see them. Every experiment is a module of the same shape:

* a docstring whose first line says what it asks, and whose first paragraph says why;
* `Settings`, a frozen dataclass, and `PRESETS`, a dict from "smoke", "laptop", ... to settings;
* `run(settings)`, which returns rows (dicts), or yields them, each as soon as it is measured;
* optionally `table(rows)`, Markdown, and `plot(rows, folder)`, which returns the file it wrote.

`run` yields what it measured; `table` and `plot` get these rows with their origin added, of one run
or of all that are on record.

Nothing in `kinopt` imports this package.
"""
