"""The table of a sweep on disk: whatever is killed at whatever step, no row is lost and none is there twice."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from guideflow.errors import FolderInUse, InvalidArgument
from guideflow.sweep import read, store
from guideflow.sweep.store import Keys, Store


class Killed(BaseException):
    """Stands for SIGKILL: from then on nothing reaches the disk."""


class Disk:
    """Counts what reaches the disk, and lets nothing through from a step on."""

    def __init__(self, monkeypatch: Any, steps: int) -> None:
        self.left = steps
        for where, name in ((os, "replace"), (Path, "unlink"), (os, "fsync")):
            monkeypatch.setattr(where, name, self._through(getattr(where, name)))

    @staticmethod
    def hurry(monkeypatch: Any) -> None:
        """Leave out the wait for the disk, which only a power cut would tell from this."""
        monkeypatch.setattr(os, "fsync", lambda file: None)

    def _through(self, call: Any) -> Any:
        def step(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*args, **options)

        return step


def rows(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [{"job": f"{number:032x}", "status": "done", "seed": number} for number in numbers]


def seeds(folder: Path) -> list[int]:
    found: list[int] = read(folder, ["seed"])["seed"].to_pylist()
    return found


def work(folder: Path, told: list[int]) -> None:
    """Write what is lacking of sixteen rows, part by part, with merges between; `told` are those on the disk."""
    table = Store(folder)
    try:
        table.merge()
        there = set(seeds(folder))
        for number in (number for number in range(16) if number not in there):
            table.add(rows([number]), {f"pictures/{number}.png": b"picture"})
            table.flush()
            told.append(number)
            if number in (7, 12):
                table.merge()
        table.merge()
    finally:
        table.close()


def test_killed_at_any_step_no_row_is_lost_and_none_is_there_twice(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(store, "_MANY", 3)
    Disk.hurry(monkeypatch)
    steps, ended = 0, False
    while not ended:
        folder = tmp_path / str(steps)
        folder.mkdir()
        told: list[int] = []
        with monkeypatch.context() as patch:
            Disk(patch, steps)
            try:
                work(folder, told)
                ended = True
            except Killed:
                pass
        if (folder / "parts").is_dir():
            found = seeds(folder)
            assert len(set(found)) == len(found) and set(told) <= set(found), f"killed at step {steps}"
        work(folder, told)
        assert sorted(seeds(folder)) == list(range(16))
        assert not list(folder.rglob("*.part")) and not list((folder / "parts").iterdir())
        steps += 7
    assert steps > 60


def test_many_parts_become_few_and_then_one_table(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(store, "_MANY", 5)
    table = Store(tmp_path)
    for number in range(23):
        table.add(rows([number]), {})
        table.flush()
        assert len(list((tmp_path / "parts").iterdir())) <= 5 + number // 5
        assert seeds(tmp_path) == list(range(number + 1)), "also while it is at work"
    table.merge()
    assert seeds(tmp_path) == list(range(23)) == pq.read_table(tmp_path / "results.parquet")["seed"].to_pylist()
    table.close()


def test_rows_of_short_jobs_share_a_part(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(store, "_SECONDS", 60.0)
    table = Store(tmp_path)
    table._told = store.time.monotonic()
    for number in range(100):
        table.add(rows([number]), {})
    assert seeds(tmp_path) == []
    table.merge()
    table.close()
    assert seeds(tmp_path) == list(range(100))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    table = Store(tmp_path)
    with pytest.raises(FolderInUse, match="Another sweep is at work"):
        Store(tmp_path)
    table.close()
    Store(tmp_path).close()


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="holds no sweep"):
        read(tmp_path)
    table = Store(tmp_path)
    table.add(rows([1]), {})
    table.flush()
    table.close()
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(InvalidArgument, match=r"000000001.parquet is damaged .* done again"):
        read(tmp_path)
    for table in (pa.table({"job": ["a"]}), store.SCHEMA.empty_table().set_column(0, "job", pa.array([], "f8"))):
        pq.write_table(table, part)
        with pytest.raises(InvalidArgument, match=r"000000001.parquet is damaged .* column '\w+' is none"):
            read(tmp_path)
    (tmp_path / "results.parquet").write_bytes(b"no table")
    with pytest.raises(InvalidArgument, match=r"results.parquet is no table of a sweep, or damaged"):
        read(tmp_path)


def test_keys_are_a_set() -> None:
    keys = Keys([[f"{number:032x}" for number in range(0, 100, 2)], [], [f"{7:032x}"]])
    assert len(keys) == 51
    assert [number for number in range(120) if f"{number:032x}" in keys] == sorted([*range(0, 100, 2), 7])
    assert "0" not in Keys([])
