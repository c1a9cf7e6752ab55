"""The run-time type checker of `make typed`."""

import beartype

# An int is fine where a float is asked for, as type checkers have it.
typechecked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
