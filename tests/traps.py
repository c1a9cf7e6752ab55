"""Files that would write another file if they were read without care."""

import pickle
import warnings
from pathlib import Path

import torch


class _Writes(torch.nn.Module):
    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker, self.data = marker, torch.zeros(4)

    @torch.jit.export
    def __getstate__(self):  # type: ignore[no-untyped-def]
        return (self.training, self.marker, self.data)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool, str, torch.Tensor]) -> None:
        self.training, self.marker = state[0], state[1]
        self.data = torch.from_file(self.marker, True, 4).fill_(1.0)


class _Touches:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.touch, (self.marker,)


def torchscript(path: Path, marker: Path) -> Path:
    """Write a TorchScript archive that makes the file `marker` while it loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_Writes(str(marker))).save(str(path))
    return path


def torch_save(path: Path, marker: Path) -> Path:
    """Write what torch.save makes of an object that makes the file `marker` while it loads."""
    torch.save({"weight": torch.zeros(2), "trap": _Touches(marker)}, path)
    return path


def plain_pickle(path: Path, marker: Path) -> Path:
    """Write a pickle that makes the file `marker` while it loads."""
    path.write_bytes(pickle.dumps({"trap": _Touches(marker)}))
    return path


TRAPS = (torchscript, torch_save, plain_pickle)

REMOTE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import {base}
class Custom({base}):
    pass
"""


def remote_code(folder: Path, marker: Path, kind: str, base: str) -> Path:
    """Let a folder's config.json ask transformers to run a file beside it, which makes the file `marker`."""
    import json

    folder.mkdir(exist_ok=True)
    (folder / "custom.py").write_text(REMOTE.format(marker=str(marker), base=base))
    asked = {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Custom", kind: "custom.Custom"}}
    (folder / "config.json").write_text(json.dumps(asked))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["custom.Custom", None]}}))
    return folder
