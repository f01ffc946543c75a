"""The commands that need a model. They parse options, call the library and print the result.

The commands join `safeguard` through entry points, because the bus side must not import the workers.

- `reason`: `safeguard reason run`, `calibrate` and `train-small`, and `safeguard bench reason`.
- `policy`: `safeguard policy test` and `diff`.
- `model`: `safeguard model check` and `scripted`.
- `tables`: tables of evaluations.
- `progress`: progress bars on standard error.
"""
