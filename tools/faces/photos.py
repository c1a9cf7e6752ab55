"""Fetch what the tests marked `real_faces` need: photographs and an independent judge, from package registries.

    python tools/faces/photos.py     # needs pip and npm; writes tools/faces/data, which is not under version control

Photographs: the group portrait of insightface and the test pictures of face_recognition, both packages under MIT.
Judge: the detector of facenet-pytorch (MIT) and the network FaceRes of @vladmandic/human (MIT). None of it is shipped.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from convert import DATA, npm_package

PHOTOS = DATA / "photos"
JUDGE = DATA / "judge"
PACKAGES = {
    "face_recognition==1.3.0": ("source", "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec"),
    "facenet-pytorch==2.6.0": ("wheel", "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca"),
    "insightface==2.1": ("wheel", "dcd58ee79d99d689572477315f3149353afd65a36dc575f597cbb217a7bde399"),
}
HUMAN = ("@vladmandic/human", "3.3.6", "425e9c51dbbca0c8934362b170cb0d54c2529c11c654b3c03092b16e9d6ad3f7")
WANTED = {
    "photos": ("obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg", "t1.jpg"),
    # As the package lays them out, without its __init__: that imports what is not needed here.
    "judge/mtcnn/data": ("pnet.pt", "rnet.pt", "onet.pt"),
    "judge/mtcnn/models": ("mtcnn.py",),
    "judge/mtcnn/models/utils": ("detect_face.py",),
}


def download(requirement: str) -> Path:
    """Fetch one package file with pip, which checks its checksum, and return its path."""
    kind, checksum = PACKAGES[requirement]
    folder = DATA / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "requirement.txt"
    listed.write_text(f"{requirement} --hash=sha256:{checksum}\n")
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    source = ["--no-binary" if kind == "source" else "--only-binary", ":all:"]
    subprocess.run([*command, *source, "--dest", str(folder), "--requirement", str(listed)], check=True)
    stem = requirement.split("==")[0].replace("-", "_")
    (path,) = {p for p in set(folder.iterdir()) | before if p.name.lower().startswith(stem)}
    return path


def members(archive: Path) -> dict[str, bytes]:
    """Every file of an archive by the last part of its name."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return {Path(name).name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if (data := tar.extractfile(member)) is not None and "/examples/" not in member.name:
                found[Path(member.name).name] = data.read()
    return found


def ready() -> bool:
    """Whether everything is there."""
    files = [DATA / folder / name for folder, names in WANTED.items() for name in names]
    return all(path.is_file() for path in [*files, JUDGE / "faceres.json", JUDGE / "faceres.bin"])


def main() -> None:
    """Fetch what is missing."""
    if ready():
        return
    found: dict[str, bytes] = {}
    for requirement in PACKAGES:
        found |= members(download(requirement))
    for folder, names in WANTED.items():
        (DATA / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (DATA / folder / name).write_bytes(found[name])
    models = npm_package(*HUMAN) / "models"
    for name in ("faceres.json", "faceres.bin"):
        (JUDGE / name).write_bytes((models / name).read_bytes())
    print(f"wrote {PHOTOS} and {JUDGE}")


if __name__ == "__main__":
    main()
