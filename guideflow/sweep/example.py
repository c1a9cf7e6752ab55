"""A spec to begin with, every field explained."""

from typing import Final

EXAMPLE: Final = """\
# A sweep: every sampler with every loss, solver and reference, on every prompt with every seed. Each is a job.
#
#   guideflow sweep sweep.yaml --dry-run     counts the jobs, and estimates time and memory
#   guideflow sweep sweep.yaml --out faces   runs them; the same command again goes on where it was stopped

# A name as `guideflow list` shows it, or a list. With options: {name: ..., options: {...}}.
sampler: avatars-perflow

# A loss, or a list of losses to compare. A sum has terms:  terms: [{name: a}, {name: b, weight: [0.5, 1]}]
# The reference goes to every term that takes one and says nothing else; "{reference}" puts it anywhere.
loss: avatars-identity

# Under `grid` stand lists of values: every combination of them is swept. A list under `options` is one value.
solver:
  - auto
  - name: anchored
    grid:
      scale: [1, 2]

# Arguments of guideflow.solve, each a value or a list of values to sweep: max_iterations, candidates, keep,
# target_loss, patience, loss_scale, negative_prompt.
solve:
  max_iterations: null    # what each solver asks for

# looks: [3, 6]      # after so many iterations, a row and a picture as well of what had been reached by then

# Pictures, by paths from the folder you are in: files, folders, globs such as people/*.jpg, or a table (.csv) with a
# column `reference`, whose other columns fill {column} in the prompts. `package:NAME/path` is a file or folder of an
# installed package.
references: package:guideflow_avatars/portraits

# Texts, a text file with one a line, or protocol:NAME for those of a protocol, such as protocol:avatars.
prompts:
  - a smiling person in a red shirt, blue background
  - a surprised person in a blue t-shirt, green background

# A list, or {start: 0, count: 100}. A column `seed` in a table of references goes before.
seeds: [0]

# From here on nothing changes a picture.
batch: 8              # most images that are solved together
# memory: 8 GB        # of a worker, in all: batches are made as small as it takes
gradient_mode: full   # full, windowed, checkpointed or auto
# watermark: false    # pictures of people's faces are marked as generated
# device: cuda
workers:              # with --ray: what each takes. Without a count there are as many as the cluster has room for
  cpus: 1
  gpus: 0
"""
