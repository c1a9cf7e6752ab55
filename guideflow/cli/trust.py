"""The bodies of `guideflow verify` and `guideflow inspect`."""

import os
from math import isinf
from pathlib import Path

from guideflow.cli.codes import FAILED
from guideflow.cli.console import console, visible
from guideflow.cli.reading import load_losses


def verify(folder: Path, losses: list[str], trust: bool, tolerance: float) -> int:
    """Make a saved run again and show what differs; the exit code is returned."""
    from rich.table import Table

    import guideflow as gf

    _take_as_many_threads(folder)
    found = gf.verify(folder, loss=load_losses(losses) if losses else None, trust=trust, tolerance=tolerance)
    screen = console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, side in (("image", "right"), ("seed", "right"), ("prompt", "left"), ("result", "left")):
        table.add_column(name, justify="left" if side == "left" else "right", overflow="fold")
    for i, image in enumerate(found.images):
        table.add_row(str(i), str(image.seed), visible(image.prompt) or "-", _verdict(image.difference, image.what))
    screen.print(table)
    for line in found.changes:
        screen.print(visible(f"Changed since: {line}."), soft_wrap=True)
    if found.same:
        count = len(found.images)
        screen.print(f"Verified: {count} image{'s' if count > 1 else ''} made again, and the same.", soft_wrap=True)
        return 0
    most = max(image.difference for image in found.images)
    more = f" To accept what rounds differently here, type --tolerance {max(1, int(most) + 1)}." if most < 4 else ""
    screen.print(f"Not the same.{more}", soft_wrap=True)
    return FAILED


def _take_as_many_threads(folder: Path) -> None:
    """Sums round differently over another number of threads: this process takes as many as the run did."""
    import torch

    from guideflow.solution import Solution

    machine = Solution.load(folder).configs.get("machine")
    threads = machine.get("threads") if isinstance(machine, dict) else None
    if type(threads) is int and 0 < threads <= 4 * (os.cpu_count() or 1):
        torch.set_num_threads(threads)


def _verdict(difference: float, what: str) -> str:
    if difference == 0:
        return "same, bit for bit"
    if isinf(difference):
        return f"nothing to compare with in {what}"
    return f"differs by {difference:.3g} of 255 grey levels ({what})"


def inspect(file: Path) -> int:
    """Show what a picture tells; 0 is returned, also where it tells nothing."""
    from rich.table import Table

    from guideflow import provenance
    from guideflow.provenance.watermark import FOUND

    found, screen = provenance.inspect(file), console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    if found.score is None:
        mark = "not looked for: pip install 'guideflow[provenance]'"
    else:
        mark = f"{'found' if found.watermark else 'not found'} (score {found.score:.2f}, found from {FOUND})"
    table.add_row("watermark", mark)
    told = found.credentials
    signed = told if isinstance(told, str) else "; ".join(f"{name}: {_text(value)}" for name, value in told.items())
    table.add_row("credentials", visible(signed))
    table.add_row("", "")
    table.add_row("metadata", "what the file itself says" if found.metadata else "none of guideflow's")
    for name, value in found.metadata.items():
        table.add_row(f"  {visible(name)}", visible(value) or "-")
    screen.print(table)
    return 0


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
