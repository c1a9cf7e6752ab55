"""The trials of a search on disk, in Optuna's journal: one line for each that is finished, so none is lost or twice.

A trial is asked for, run, and only then written. What is asked for depends on the finished trials, the seed and the
number of the trial alone, so a process that was killed asks for the same again, and finds the jobs that it had done.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from guideflow.errors import InvalidArgument
from guideflow.tune.spec import Range

JOURNAL: Final = "study.journal"
_NAME: Final = "guideflow"
_RANDOM: Final = 5
"""Trials that are drawn at random before the sampler of Optuna goes by those that are finished."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Held:
    """Stands for Optuna's lock, which a killed process leaves behind: the folder is locked already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


class Study:
    """Trials and what they came to.

    Arguments:
        folder: Where the journal is, held by this process.
        search: Options with the ranges of their values.
        directions: Of the two objectives, "maximize" or "minimize".
        seed: Of the search.
    """

    def __init__(self, folder: Path, search: Mapping[str, Range], directions: tuple[str, str], seed: int) -> None:
        self._ranges = {name: _distribution(values) for name, values in search.items()}
        self._directions, self._seed = list(directions), seed
        path = folder / JOURNAL
        try:
            if path.exists():
                _mend(path)
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Held()))
            self._study = optuna.create_study(
                storage=storage, study_name=_NAME, directions=self._directions, load_if_exists=True
            )
            self.trials: list[FrozenTrial] = self._study.get_trials()
            self.front()
        except Exception as error:  # of any kind: what a damaged line makes Optuna raise
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InvalidArgument(
                f"{path} is damaged ({why}). Bring back a copy, or remove it: the trials are then asked for again, and "
                "their pictures found."
            ) from error

    def ask(self) -> dict[str, Any]:
        """Return the options of the next trial."""
        number = len(self.trials)
        if (asked := self._study.user_attrs.get("asked")) and asked["number"] == number:
            return self.options(asked["params"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=hash_seed(self._seed, number), n_startup_trials=_RANDOM, multivariate=True
            )
        copy = optuna.create_study(directions=self._directions, sampler=sampler)
        copy.add_trials(self.trials)
        params = copy.ask(self._ranges).params
        # Kept, so that another version of Optuna goes on with it too.
        self._study.set_user_attr("asked", {"number": number, "params": params})
        return self.options(params)

    def tell(self, options: Mapping[str, Any], values: tuple[float, float] | None, note: str = "") -> None:
        """Write a finished trial: what it came to, or None if it failed and why."""
        there = {name: _stored(value, self._ranges[name]) for name, value in options.items()}
        trial = create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            params=there,
            distributions={name: self._ranges[name] for name in there},
            values=None if values is None else list(values),
            user_attrs={"note": note},
        )
        self._study.add_trial(trial)
        self.trials = self._study.get_trials()

    def front(self) -> set[int]:
        """Return the numbers of the trials that no other is better than in both."""
        return {trial.number for trial in self._study.best_trials}

    def options(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that parameters of Optuna stand for."""
        return {
            name: json.loads(value) if isinstance(self._ranges[name], CategoricalDistribution) else value
            for name, value in params.items()
        }


def hash_seed(seed: int, number: int) -> int:
    """Return the seed of one trial, another one for each."""
    return (seed * 1_000_003 + number * 7_919 + 12_345) % 2**32


def _distribution(values: Range) -> BaseDistribution:
    if values.choices is not None:
        return CategoricalDistribution([json.dumps(one, sort_keys=True) for one in values.choices])
    low, high = values.ends()
    if values.whole:
        return IntDistribution(low, high, log=values.log)
    return FloatDistribution(low, high, log=values.log)


def _stored(value: Any, values: BaseDistribution) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(values, CategoricalDistribution) else value


def _mend(path: Path) -> None:
    """Take off a last line that a killed process did not finish."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("rb+") as file:
            file.truncate(len(whole))
