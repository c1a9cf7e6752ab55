"""A spec to begin with, every field explained."""

from typing import Final

EXAMPLE: Final = """\
# A search of the options of one solver, for one sampler with one loss. What it finds is written as a preset.
#
#   guideflow tune tune.yaml --dry-run      counts the jobs, and estimates time and memory
#   guideflow tune tune.yaml --out anchored runs it; the same command again goes on where it was stopped

# As in a sweep (`guideflow sweep --example`), but one of each. The solver may have options that are not searched:
# {name: anchored, options: {gain: unit}}.
sampler: avatars-perflow
loss: avatars-identity
solver: anchored

# Options of the solver: numbers from low to high, evenly or by their logarithm (log), whole ones (whole); or choices.
search:
  scale: {low: 0.5, high: 8, log: true}
  anchor: [moving, fixed]

# What is looked at: the metric to be best at, which must not look through the network that guides, and what must not
# suffer for it, the denoise error if nothing is said. `guideflow list metrics` shows the names.
objectives: [avatars-identity-similarity, denoise-error]

# The preset is the trial that is best at the first, of those that have at most so much of the second as unguided
# pictures: 1.2 is a fifth more. It is written only if it is better than the solver by default.
at_most: 1.2
trials: 20            # beside the solver as it is by default
seed: 0               # of the search

# The jobs of each trial, as in a sweep: every reference with every prompt and seed.
solve:
  max_iterations: 12
references:
  - package:guideflow_avatars/portraits/ada.png
  - package:guideflow_avatars/portraits/ben.png
prompts:
  - a smiling person in a red shirt, blue background
seeds: [0]

# Other people, on whom a preset has to be better than the default as well. They are shown to no trial.
check:
  references:
    - package:guideflow_avatars/portraits/cleo.png
    - package:guideflow_avatars/portraits/dan.png
  prompts: a person with glasses, green background
  seeds: [1]

# Kept in the preset.
note: two of the bundled portraits

# As in a sweep, these change no picture: batch, memory, gradient_mode, device and workers (with --ray).
batch: 8
"""
