"""Installed distributions that are only pretended: discovery without pip, in milliseconds."""

from pathlib import Path


def fake_distribution(path: Path, entry_point: str, source: str, *, name: str | None = None) -> None:
    """Write a module and the metadata that an installed package would have.

    Put `path` on `sys.path` (`monkeypatch.syspath_prepend(path)`) and call `guideflow.registry.refresh()` to see it.

    Arguments:
        path: An existing folder.
        entry_point: A line of `[project.entry-points.guideflow]`, as `"sharpness = guideflow_sharpness"`.
        source: Text of the module it names.
        name: Name of the distribution; by default that of the module.
    """
    module = entry_point.partition("=")[2].strip()
    name = name or module
    (path / f"{module}.py").write_text(source)
    metadata = path / f"{name.replace('-', '_')}-0.1.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(f"[guideflow]\n{entry_point}\n")
