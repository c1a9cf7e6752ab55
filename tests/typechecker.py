"""The run-time type checker of the test suite, as `--jaxtyping-packages` in pyproject.toml names it."""

import beartype

# An int is fine where a float is asked for, as type checkers have it.
typechecked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
