"""The body of `guideflow init-plugin`: a package that works, is tested, and pip installs."""

import re
import shlex
from pathlib import Path
from string import Template

from guideflow import registry
from guideflow._files import write_whole
from guideflow._given import one_of
from guideflow.cli.console import console, visible
from guideflow.cli.templates import MODULES, PYPROJECT, README, TESTS, USE
from guideflow.errors import DuplicatePlugin, FolderInUse, InvalidArgument


def init_plugin(name: str, kind: str = "loss", out: Path | None = None) -> None:
    """Write a package for a plugin of a kind, and say how to go on.

    Arguments:
        name: What users will type: small letters, digits and hyphens.
        kind: One of the kinds that are loaded by name.
        out: Folder to make; by default `guideflow-NAME`.

    Raises:
        InvalidArgument: If the name cannot be one, or there is no such kind.
        DuplicatePlugin: If something installed is called so.
        FolderInUse: If the folder is there and not empty.
    """
    one_of("kind", kind, [one for one in MODULES if one in registry.HOOKS])
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60:
        raise InvalidArgument(f"Got the name {name!r}. Expected small letters, digits and hyphens, as in sharp-edges.")
    if taken := [offer for offer in registry.offers(kind) if offer.name == name]:
        raise DuplicatePlugin(f"There is a {kind} {name!r} of {taken[0].plugin.distribution}. Give another name.")
    distribution = f"guideflow-{name}"
    folder = Path(distribution) if out is None else out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderInUse(f"{folder} is there already. Give another folder by --out.")
    words = {
        "name": name,
        "kind": kind,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "Class": "".join(part.capitalize() for part in name.split("-")),
    }
    words["use"] = Template(USE[kind]).substitute(words)
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{words['module']}.py": MODULES[kind],
        f"test_{words['module']}.py": TESTS[kind],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_whole(folder / file, Template(text).substitute(words).encode())
    screen = console()
    screen.print(visible(f"Wrote {', '.join(files)} to {folder}. Try it:"), soft_wrap=True)
    for command in (
        f"pip install -e {shlex.quote(str(folder))}",
        f"guideflow info {name}",
        f"pytest {shlex.quote(str(folder))}",
    ):
        screen.print(f"  {visible(command)}", soft_wrap=True)
