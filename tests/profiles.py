"""Colour profiles as phones and cameras write them, made here, and what they mean by their definition."""

import struct

import numpy as np

# Columns: red, green and blue in XYZ, adapted to D50, as profiles hold them.
PRIMARIES = {
    "sRGB": [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)],
    "Display P3": [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)],
    "Adobe RGB (1998)": [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)],
}
GAMMA = {"Display P3": 2.4, "Adobe RGB (1998)": 563 / 256}


def profile(name: str) -> bytes:
    """Write a profile of version 2, or of version 4 where its curve needs that."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    text = name.encode()
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    if name != "Display P3":
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(GAMMA[name] * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(1 + 12 + 67),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        **{
            letter + b"XYZ": b"XYZ " + bytes(4) + fixed(*one)
            for letter, one in zip((b"r", b"g", b"b"), PRIMARIES[name], strict=True)
        },
        **{letter + b"TRC": curve for letter in (b"r", b"g", b"b")},
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for key, content in tags.items():
        content += bytes(-len(content) % 4)
        table += key + struct.pack(">II", start + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body


def in_srgb(name: str, rgb: tuple[int, int, int]) -> np.ndarray:
    """Return a colour of a profile in sRGB, in [0, 1], by the definitions."""
    encoded = np.array(rgb) / 255
    linear = encoded ** GAMMA[name]
    if name == "Display P3":
        linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = np.linalg.solve(np.array(PRIMARIES["sRGB"]).T, np.array(PRIMARIES[name]).T @ linear).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
