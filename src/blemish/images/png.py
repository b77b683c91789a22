"""PNG files by their chunks, read and written faster than by libpng alone (W3C PNG, third edition)."""

from __future__ import annotations

import ctypes
import struct

import imagecodecs
import numpy as np

_FAST_PIXELS = 2**24
"""The most pixels that are unpacked at once, which takes twice their memory; libpng reads row by row."""
_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"tIME", b"eXIf"}
_PLAIN_CHUNKS |= {b"gAMA", b"cHRM", b"sRGB", b"iCCP"}  # colour spaces, by which no number changes here
_VALUES = {0: 1, 2: 3, 4: 2, 6: 4}
"""Values of a pixel by colour type, without palettes."""
_BLOCK = 2**16 - 1
"""The most bytes of a block without compression."""
_WHOLE_WINDOW = 0x78
"""How packed data begin that may look back as far as the format allows."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
"""The filter of a row that holds its differences from the row above."""


def chunk(kind: bytes, body: bytes) -> bytes:
    """Make a chunk of four letters: its length, kind, body and checksum."""
    checksum = imagecodecs.deflate_crc32(body, imagecodecs.deflate_crc32(kind))
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)])


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into its chunks, up to the last: [(kind, body)]. Raises ValueError for damage."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        if at + 12 > len(data):
            raise ValueError("the file ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        body, checksum = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if checksum != imagecodecs.deflate_crc32(body, imagecodecs.deflate_crc32(kind)).to_bytes(4, "big"):
            raise ValueError(f"a wrong checksum or an early end at byte {at}")
        chunks.append((kind, body))
        at += 12 + length
    return chunks


def decode_png(data: bytes, chunks: list[tuple[bytes, bytes]]) -> np.ndarray:
    """Decode a PNG of 8 or 16 bits without palette, and its chunks, to (H, W) or (H, W, C). Or any error.

    libpng does it, and unpacks at half the speed of libdeflate. So libdeflate unpacks what it can, and libpng
    gets it as packed data of no compression. Whatever is not plain goes to libpng as it came: it alone says
    what is damaged.
    """
    try:
        return imagecodecs.png_decode(_without_compression(chunks) or data)
    except Exception:
        # imagecodecs 2026.3.6 gives back one reference to None too many here. Before Python 3.12 a process
        # that is shown some thousand damaged files would die of it; one too few is harmless.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(None))
        raise


def _without_compression(chunks: list[tuple[bytes, bytes]]) -> bytearray | None:
    """Return a plain PNG with its data in blocks of no compression; None for any other."""
    size = _unpacked_size(chunks)
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    if size is None or packed[:1] != bytes([_WHOLE_WINDOW]):
        return None
    lead = SIGNATURE + chunk(*chunks[0])
    begin, blocks = len(lead) + 8, -(-size // _BLOCK)
    end = begin + 2 + 5 * blocks + size
    whole = bytearray(end + 8 + 12)
    view = memoryview(whole)
    rows = view[end - size : end]  # behind their places, to which they move up
    try:
        if len(imagecodecs.deflate_decode(packed, out=rows)) != size:
            return None
    except imagecodecs.DeflateError:
        return None
    total = imagecodecs.deflate_adler32(rows)  # pyright: ignore[reportArgumentType]  # it takes any buffer
    struct.pack_into(f">{len(lead)}sI4sH", whole, 0, lead, end + 4 - begin, b"IDAT", 0x7801)
    for number, first in enumerate(range(0, size, _BLOCK)):
        at, count = begin + 2 + number * (5 + _BLOCK), min(_BLOCK, size - first)
        struct.pack_into("<BHH", whole, at, number + 1 == blocks, count, count ^ 0xFFFF)
        view[at + 5 : at + 5 + count] = rows[first : first + count]
    struct.pack_into(">I", whole, end, total)
    checked = view[begin - 4 : end + 4]
    checksum = imagecodecs.deflate_crc32(checked)  # pyright: ignore[reportArgumentType]
    struct.pack_into(">I", whole, end + 4, checksum)
    view[end + 8 :] = chunk(b"IEND", b"")
    return whole


def _unpacked_size(chunks: list[tuple[bytes, bytes]]) -> int | None:
    """Return how many bytes the filtered rows of a plain PNG have, by its header; None for any other."""
    kinds = [kind for kind, _ in chunks]
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") != 1 or not _PLAIN_CHUNKS.issuperset(kinds):
        return None
    width, height, depth, colours, *_, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    first, count = kinds.index(b"IDAT"), kinds.count(b"IDAT")
    scattered = kinds[first : first + count] != [b"IDAT"] * count
    if interlaced or scattered or width * height > _FAST_PIXELS:
        return None
    return height * (1 + width * _VALUES[colours] * depth // 8)


def encode_png(pixels: np.ndarray, *texts: bytes) -> bytes:
    """Encode a picture, uint8 (H, W) or (H, W, 3), with texts, each the body of a chunk `tEXt`.

    Half the time of libpng's quickest setting, for files that are a little smaller: each row holds its
    differences from the one above, which needs no search for the best filter, packed by libdeflate.
    """
    (height, width), colours = pixels.shape[:2], 2 if pixels.ndim == 3 else 0
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as the filter is defined
    chunks = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)),
        *(chunk(b"tEXt", text) for text in texts),
        chunk(b"IDAT", bytes(imagecodecs.deflate_encode(filtered.tobytes(), level=1))),
        chunk(b"IEND", b""),
    ]
    return SIGNATURE + b"".join(chunks)
