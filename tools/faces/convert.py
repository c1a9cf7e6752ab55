"""Convert the published face networks to the safetensors that guideflow_identity ships.

Source: the npm package @vladmandic/face-api (MIT), which stores weights as bytes with a scale and an offset per tensor.
They are kept as they are, only laid out for torch, so that nothing is lost and the files stay small:

    weight = byte * range[0] + range[1]

    python tools/faces/convert.py               # fetches with npm and writes the three files
    python tools/faces/convert.py --reference   # also writes what the package's own code answers, for a test (node)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
WEIGHTS = ROOT / "plugins" / "guideflow_identity" / "weights"
REFERENCE = ROOT / "tests" / "plugins" / "faces_reference.json"
PACKAGE = ("@vladmandic/face-api", "1.7.15", "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031")
TFJS = ("@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0")
NETWORKS = {
    "detector": ("tiny_face_detector_model", "MIT (Vincent Mühler, Vladimir Mandic)"),
    "landmarks": ("face_landmark_68_model", "MIT (Vincent Mühler, Vladimir Mandic)"),
    "recogniser": ("face_recognition_model", "public domain (Davis King)"),
}


def npm_package(name: str, version: str, sha256: str, folder: Path = DATA) -> Path:
    """Fetch a package with npm, check it, and return the folder it was unpacked to."""
    target = folder / f"{name.split('/')[-1]}-{version}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"{name}@{version}"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        archive = folder / done.stdout.split()[-1]
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{archive} has the checksum {found}, not {sha256}. Somebody changed the package.")
        part = target.with_suffix(".part")
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
        (part / "package").rename(target)
        shutil.rmtree(part)
        archive.unlink()
    return target


def torch_name(name: str) -> str:
    """Name of a published tensor in our modules: `conv1/depthwise_filter` becomes `conv1.depthwise.weight`."""
    endings = {
        r"/depthwise_filter$": ".depthwise.weight",
        r"/pointwise_filter$": ".pointwise.weight",
        r"(conv\d)/bias$": r"\1.bias",
        r"/filters$": ".weight",
        r"/weights$": ".weight",
        r"/biases$": ".bias",
        r"^fc$": "fc.weight",
    }
    for pattern, ending in endings.items():
        name = re.sub(pattern, ending, name)
    return name.replace("/", ".")


def torch_layout(name: str, values: np.ndarray) -> np.ndarray:
    """Reorder axes: height, width, in, out becomes out, in, height, width; depthwise and matrices likewise."""
    if values.ndim == 4:
        values = values.transpose((2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1))
    return np.ascontiguousarray(values.T if values.ndim == 2 else values)


def read(manifest: Path) -> dict[str, np.ndarray]:
    """Read a published network: bytes with their `range`, or float32 where the package has float32."""
    (group,) = json.loads(manifest.read_text())
    data = b"".join((manifest.parent / path).read_bytes() for path in group["paths"])
    tensors: dict[str, np.ndarray] = {}
    separable = {w["name"].rpartition("/")[0] for w in group["weights"] if w["name"].endswith("depthwise_filter")}
    offset = 0
    for entry in group["weights"]:
        quantised = entry.get("quantization")
        dtype = np.dtype(quantised["dtype"] if quantised else entry["dtype"])
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
        offset += count * dtype.itemsize
        name = torch_name(entry["name"])
        if entry["name"].rpartition("/")[0] in separable and name.endswith(".bias"):
            name = name.replace(".bias", ".pointwise.bias")
        tensors[name] = torch_layout(name, values)
        if quantised:
            tensors[f"{name}.range"] = np.array([quantised["scale"], quantised["min"]], np.float64)
    if offset != len(data):
        raise SystemExit(f"{manifest} describes {offset} bytes, the data has {len(data)}.")
    return tensors


def write_reference() -> None:
    """Run the package's own JavaScript and keep what it answers."""
    folder = DATA / "node"
    folder.mkdir(parents=True, exist_ok=True)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    subprocess.run([*install, *TFJS, f"{PACKAGE[0]}@{PACKAGE[1]}"], check=True)
    script = ["node", str(Path(__file__).parent / "reference.js"), str(folder.resolve())]
    done = subprocess.run(script, check=True, capture_output=True, text=True)
    REFERENCE.write_text(done.stdout)
    print(f"wrote {REFERENCE.relative_to(ROOT)}")


def main() -> None:
    """Convert, and report the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="also run the package's own code (needs node)")
    options = parser.parse_args()
    models = npm_package(*PACKAGE) / "model"
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    for name, (published, licence) in NETWORKS.items():
        path = WEIGHTS / f"{name}.safetensors"
        about = {"source": f"{PACKAGE[0]}@{PACKAGE[1]}: model/{published}.bin", "licence": licence}
        save_file(read(models / f"{published}-weights_manifest.json"), path, about)
        path.chmod(0o644)  # it is written for its owner only
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")
    if options.reference:
        write_reference()


if __name__ == "__main__":
    main()
