"""Colour pictures of 16 bits, which Pillow reads but does not write."""

import struct
import zlib

import numpy as np


def png(values: np.ndarray) -> bytes:
    """Write (height, width, 3) as a PNG."""
    height, width, _ = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, order: str) -> bytes:
    """Write (height, width, 3) as a TIFF of two strips that is to be turned: of "II" or "MM", or "packed"."""
    height, width, _ = values.shape
    end, half = ">" if order == "MM" else "<", height // 2
    strips = [part.astype(end + "u2").tobytes() for part in (values[:half], values[half:])]
    strips = [zlib.compress(strip) for strip in strips] if order == "packed" else strips
    fields = [(256, "I", width), (257, "I", height), (258, "H", 16, 16, 16), (259, "H", 8 if order == "packed" else 1)]
    fields += [(262, "H", 2), (273, "I", 0, 0), (274, "H", 6), (277, "H", 3), (278, "I", half)]
    fields += [(279, "I", *map(len, strips)), (284, "H", 1)]
    start, table, more = 8 + 2 + 12 * len(fields) + 4, b"", b""
    place = start + sum(len(rest) * struct.calcsize(kind) for _, kind, *rest in fields if len(rest) > 1)
    for tag, kind, *numbers in fields:
        if tag == 273:
            numbers = [place, place + len(strips[0])]
        content = struct.pack(end + kind * len(numbers), *numbers)
        table += struct.pack(end + "HHI", tag, 3 if kind == "H" else 4, len(numbers))
        if len(content) > 4:
            table, more = table + struct.pack(end + "I", start + len(more)), more + content
        else:
            table += content.ljust(4, b"\0")
    head = (b"MM" if end == ">" else b"II") + struct.pack(end + "HI", 42, 8) + struct.pack(end + "H", len(fields))
    return head + table + bytes(4) + more + b"".join(strips)
