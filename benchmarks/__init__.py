"""Experiments: one file for each table, figure or question, and a demo on real digits.

Run `python -m benchmarks list` to see them. Every experiment is a module of the same shape:

* a docstring whose first line says what it asks, and whose first paragraph says why; its last
  paragraph is made of lines that `list` shows: `Reproduces:` the paper's item, `Needs:` data or
  packages, `Takes:` how long each preset is, and `Scale:` what of the paper's protocol no committed
  row covers, and why;
* `Settings`, a frozen dataclass, and `PRESETS`, a dict from "smoke", "laptop", ... to settings;
* `run(settings, done)`, which yields rows (dicts), each as soon as it is measured, and leaves out
  those for which `done(name=value, ...)` says that they are on record; a short experiment may be a
  plain `run(settings)`, and may return a list;
* `table(rows)`, Markdown, and `READING`, how to read it, if it needs that; optionally `plot(rows)`,
  a Matplotlib figure, and `headline(rows)`, the result in a few words for the list of both papers'
  tables and figures.

`run` yields what it measured; the others get these rows with their origin added, those of one run.
What is common to all experiments is done around them: `runner` keeps the rows and handles Ctrl-C,
`reading` decides which runs count and saves the picture.

Nothing in `kinopt` imports this package.
"""

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: 128 + SIGINT."""
