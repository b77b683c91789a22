"""What a file is that is not read here: its format by its first bytes, or the kind of JPEG that it holds."""

from __future__ import annotations

_HEADS = {
    b"GIF8": "a GIF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II\xbc": "JPEG XR",
    b"8BPS": "a Photoshop file",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy file",
    b"SIMPLE  =": "FITS",
    b"DDS ": "a DDS texture",
    b"\0\0\1\0": "an icon",
    b"%PDF": "a PDF",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"<svg": "an SVG drawing",
    b"<?xml": "XML",
}
"""First bytes, and what they say."""
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
}
"""Brands of the file format that begins with `ftyp`, of which most are films."""
_JPEG_LS, _UNREAD_FRAMES = 0xF7, {0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
_NO_FRAMES = {0xC4, 0xC8, 0xCC}
"""Markers of JPEG (ITU-T T.81, table B.1): those of frames that no decoder here takes, and of no frame."""


def format_of_head(head: bytes) -> str | None:
    """Return what the first 16 bytes of a file say that it is, with its article; None: they say nothing."""
    if not head:
        return "an empty file"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a film, or an image in a film's format")
    return next((kind for start, kind in _HEADS.items() if head.startswith(start)), None)


def unread_jpeg(data: bytes) -> str | None:
    """Return what kind of JPEG this is if it is one that is not read; None: it is read, or cut off before."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a byte that fills
            at += 1
            continue
        if marker == _JPEG_LS:
            return "is JPEG-LS, another format than JPEG"
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            if marker in _UNREAD_FRAMES:
                return "is a hierarchical or arithmetic-coded lossless JPEG"
            bits = data[at + 4]
            return None if bits == 8 else f"is a JPEG of {bits} bits, and only those of 8 are read"
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
