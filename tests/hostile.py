"""Files that are not what they say: a corpus of bad pictures, changes to any file, and the readers that take them.

The tests try a little of it every time; `tools/fuzz.py` tries as much as there is time for.
"""

import hashlib
import io
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

import guideflow as gf
import sixteen
from guideflow import images, provenance
from guideflow.errors import GuideflowError

FORMATS = {
    "png": ("PNG", ("L", "RGB", "RGBA", "P", "1", "I;16", "LA")),
    "jpg": ("JPEG", ("L", "RGB", "CMYK")),
    "gif": ("GIF", ("P", "L")),
    "webp": ("WEBP", ("RGB", "RGBA")),
    "tif": ("TIFF", ("L", "RGB", "CMYK", "F", "I;16", "1")),
    "bmp": ("BMP", ("RGB", "P")),
    "ppm": ("PPM", ("L", "RGB")),
    "avif": ("AVIF", ("RGB",)),
}


def good() -> dict[str, bytes]:
    """Small whole pictures of every format and mode, by name."""
    Image.init()
    found = {}
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    for end, (form, modes) in FORMATS.items():
        if form not in Image.SAVE:  # this Pillow was built without it
            continue
        for mode in modes:
            picture = Image.fromarray(noise)
            picture = Image.fromarray(noise[..., 0].astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
            picture.save(content := io.BytesIO(), form)
            found[f"{mode.replace(';', '')}.{end}"] = content.getvalue()
    frames = [Image.fromarray(np.roll(noise, i, 0)) for i in range(3)]
    for end, form in (("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
        frames[0].save(content := io.BytesIO(), form, save_all=True, append_images=frames[1:])
        found[f"animated.{end}"] = content.getvalue()
    found["deep.png"], found["deep.tif"] = sixteen.png(noise * np.uint16(16)), sixteen.tiff(noise * np.uint16(16), "II")
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 100000))
    chunks.add(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))
    frames[0].save(content := io.BytesIO(), "PNG", pnginfo=chunks)
    found["declared.png"] = content.getvalue()
    exif = Image.Exif()
    exif[0x112] = 6
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    frames[0].save(content := io.BytesIO(), "JPEG", exif=exif)
    found["adobe.jpg"] = content.getvalue()
    return found


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG of any claims."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join((chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def liars() -> dict[str, bytes]:
    """Files with claims that do not hold, and files of other kinds."""
    zeros = zlib.compress(bytes(2**24))
    sizes = [(0, 0), (0, 5), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (30_000, 30_000), (9_000, 9_000), (2**32 - 1, 3)]
    found = {f"claims-{w}-{h}.png": png(w, h, data=zlib.compress(b"\0")) for w, h in sizes}
    found |= {
        f"depth-{d}-{c}.png": png(4, 4, depth=d, colour=c, data=zeros) for d in (0, 3, 16, 255) for c in (1, 3, 7)
    }
    text = {
        b"zTXt": b"k\0\0" + zeros,
        b"iTXt": b"k\0\1\0\0\0" + zeros,
        b"iCCP": b"k\0\0" + zeros,
        b"tEXt": bytes(2**22),
    }
    found |= {f"bomb-{kind.decode()}.png": png(4, 4, chunk(kind, data), data=zeros) for kind, data in text.items()}
    found |= {f"many-{n}.png": png(4, 4, *[chunk(b"tEXt", b"k\0v")] * n, data=zeros) for n in (1000, 20_000)}
    found["cut-length.png"] = png(4, 4)[:30] + b"\xff\xff\xff\xff" + png(4, 4)[34:]
    found["exif.png"] = png(4, 4, chunk(b"eXIf", b"MM\0*" + b"\xff" * 40), data=zlib.compress(bytes(52)))
    found["frames.png"] = png(4, 4, chunk(b"acTL", struct.pack(">II", 2**31, 0)), data=zlib.compress(bytes(52)))
    found["loop.tif"] = b"II*\0\x08\0\0\0\0\0\x08\0\0\0"
    found["tags.tif"] = b"II*\0\x08\0\0\0\xff\xff" + bytes(200)
    big = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries = b"".join(struct.pack("<HHII", *one) for one in big)
    found["size.tif"] = b"II*\0\x08\0\0\0" + struct.pack("<H", len(big)) + entries + bytes(4)
    found["screen.gif"] = (
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;"
    )
    found["endless.gif"] = b"GIF89a\x04\0\x04\0\0\0\0" + b"!\xff\x0bNETSCAPE2.0" + b"\x03\1\0\0" * 5000
    for name, (w, h) in {"tall": (1, 2**31 - 1), "negative": (4, -(2**31)), "wide": (2**31 - 1, 4)}.items():
        header = struct.pack("<IiiHHIIiiII", 40, w, h, 1, 24, 0, 0, 0, 0, 0, 0)
        found[f"{name}.bmp"] = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
    for claim in (
        "4 4 255",
        "99999999 99999999 255",
        "-4 4 255",
        "4 4 0",
        "4 4 99999999",
        "x",
        "4 " * 9000,
        "#" * 70_000,
    ):
        found[f"claims-{len(found)}.ppm"] = f"P6\n{claim}\n".encode()
    found["deep.jpg"] = b"\xff\xd8\xff\xe0" + b"\xff\xfe\xff\xff" * 20_000
    found["size.jpg"] = (
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\1\x11\0\2\x11\1\3\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0?\0"
    )
    found["svg.png"] = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    found["eps.png"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/guideflow-eps) (w) file closefile\n"
    found |= {"pdf.png": b"%PDF-1.7\n", "zip.png": b"PK\3\4" + bytes(60), "page.jpg": b"<!doctype html><p>404</p>"}
    found |= {"lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "empty.png": b""}
    found |= {
        "pickle.png": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
        "zeros.png": bytes(100_000),
        "ones.gif": b"\xff" * 9999,
    }
    return found


def damaged(content: bytes, way: int, draw: random.Random) -> bytes:
    """Damage a file in one of eight ways."""
    here, size = bytearray(content), len(content)
    if way == 0:
        return content[: draw.randrange(size)]
    if way == 1:
        return content[: max(1, size * 9 // 10)]
    if way == 2:
        for _ in range(1 + size // 50):
            here[draw.randrange(size)] = draw.randrange(256)
    elif way == 3:  # the header, where sizes are
        for _ in range(2):
            here[draw.randrange(min(size, 60))] = draw.choice((0, 1, 127, 128, 255))
    elif way == 4:
        at = draw.randrange(size)
        here[at:at] = bytes(draw.randrange(256) for _ in range(9))
    elif way == 5:
        at = draw.randrange(size)
        del here[at : at + draw.randrange(1, 40)]
    elif way == 6:
        here[size // 2 :] = bytes(size - size // 2)
    else:
        here += b"PK\3\4" + content + b"<script>"
    return bytes(here)


WAYS = 8


def corpus() -> dict[str, bytes]:
    """Bad pictures by name; more than 200."""
    draw, found = random.Random(0), liars()
    for name, content in good().items():
        stem, end = name.split(".")
        found |= {f"{stem}-{way}.{end}": damaged(content, way, draw) for way in range(WAYS)}
    for one, other in (("RGB.png", "jpg"), ("RGB.jpg", "png"), ("L.tif", "gif"), ("P.gif", "webp")):
        found[f"{one}.as.{other}"] = good()[one]  # whole, and called by another name
    return found


def special(folder: Path) -> Iterator[Path]:
    """Names that are no files, or lead elsewhere."""
    folder.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    for name, to in {"zero": "/dev/zero", "loop": "loop.png", "nowhere": "missing", "folder": "folder.png"}.items():
        (folder / f"{name}.png").unlink(missing_ok=True) if name != "folder" else None
        link = folder / (f"{name}.png" if name != "folder" else "to-folder.png")
        link.symlink_to(to)
        yield link
    yield from (
        folder / "pipe.png",
        folder / "folder.png",
        folder / ("x" * 300 + ".png"),
        Path("a\nb.png"),
        Path("/dev/null"),
    )


# The readers: each takes a file's content, and may refuse it by a GuideflowError alone.


def read_picture(content: bytes, folder: Path, name: str = "a.png") -> None:
    """Read a picture in all the ways there are."""
    path = folder / name
    path.write_bytes(content)
    for read in (images.read_image, lambda path: images.read_image(path, size=16), images.read_metadata):
        _refusable(read, path)
    if path.stat().st_size:
        _refusable(provenance.inspect, path)


def _refusable(call: Callable[[Any], object], given: Any) -> None:
    try:
        call(given)
    except GuideflowError as error:
        assert len(str(error)) < 2000, "one line"


def saved_run(folder: Path) -> Path:
    """A small run that is resumed from the folder alone, with a reference."""
    images.save_image(folder / "grey.png", torch.full((3, 8, 8), 0.25))
    loss = gf.load_loss("avatars-style", reference=str(folder / "grey.png"))
    sampler = gf.load_sampler("toy-mixture", size=16, num_steps=2)
    gf.solve(sampler, loss, solver=gf.Momentum(gf.FlowGrad()), max_iterations=1).save(folder / "run")
    return folder / "run"


class Runs:
    """A saved run of which one file at a time is another."""

    def __init__(self, saved: Path, folder: Path) -> None:
        self.saved, self.folder = saved, folder / "run"
        self.files = sorted(path.name for path in saved.iterdir() if path.suffix in (".json", ".safetensors", ".png"))

    def read(self, name: str, content: bytes, consistent: bool) -> None:
        """Load, resume, save and verify with a file's content; under its true checksum, if it is to be consistent."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.saved, self.folder)
        (self.folder / name).write_bytes(content)
        if consistent and name.endswith(".safetensors"):
            stem = name.rpartition("-")[0]
            new = f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
            (self.folder / name).rename(self.folder / new)
            manifest = self.folder / "manifest.json"
            manifest.write_text(manifest.read_text().replace(name, new))
        for call in (self._resume, gf.verify):
            _refusable(call, self.folder)

    @staticmethod
    def _resume(folder: Path) -> None:
        gf.resume(folder, max_iterations=2).save(folder)

    def manifest(self) -> Any:
        return json.loads((self.saved / "manifest.json").read_text())


def read_onnx(content: bytes, folder: Path) -> None:
    """Read and run an ONNX file."""
    from guideflow_identity.onnx_network import OnnxNetwork, read_onnx

    path = folder / "a.onnx"
    path.write_bytes(content)

    def run(path: Path) -> None:
        with torch.no_grad():
            OnnxNetwork(read_onnx(path))(torch.zeros(1, 3, 112, 112))

    _refusable(run, path)


def read_spec(content: bytes, folder: Path, name: str = "sweep.yaml") -> None:
    """Read a spec of a sweep and count its jobs, for which names, options and references are looked up."""
    from guideflow.sweep import read_spec
    from guideflow.sweep.jobs import Plan

    path = folder / name
    path.write_bytes(content)
    _refusable(lambda path: len(Plan(read_spec(path))), path)
    path.unlink()


def read_table(content: bytes, folder: Path) -> None:
    """Read a table of references."""
    from guideflow.sweep.references import references

    path = folder / "table.csv"
    path.write_bytes(content)
    _refusable(lambda path: references([str(path)]), path)


def adapter() -> tuple[bytes, dict[str, Any]]:
    """Return the tensors and the configuration of a LoRA as peft writes them."""
    from safetensors.torch import save

    name = "base_model.model.blocks.0.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 6), f"{name}.lora_B.weight": torch.ones(4, 2)}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": True, "alpha_pattern": {"to_q": 8}}
    return save(tensors, {"format": "pt"}), config | {"rank_pattern": {"to_q": 2}, "target_modules": ["to_q"]}


def read_adapter(content: bytes, config: Any, folder: Path) -> None:
    """Merge a LoRA of peft into a network with one layer."""
    from guideflow_diffusers.lora import merge_lora
    from guideflow_diffusers.weights import Weights

    path = folder / "adapter_model.safetensors"
    path.write_bytes(content)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    block = torch.nn.ModuleDict({"to_q": torch.nn.Linear(6, 4)})
    network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block])})
    _refusable(lambda path: merge_lora({"transformer": network}, Weights([path])), path)
