"""Damages the bytes of a file in the ways that disks, cut downloads, editors and attackers do."""

import io
import zipfile

KINDS = ("cut", "flip", "overwrite", "insert", "delete", "repeat")
# fmt: off
SNIPPETS = (
    b"\xff\xff\xff\xff", bytes(8), b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"nan", b"-1", b"inf", b"9" * 20, b"1e400",
    b"'<f8'", b"'|O'", b"'<U0'", b"'<c16'", b"(3,)", b"(0, 9)", b"{", b"}", b"\n", b"\t", b"\r", b",", b"\0", b" ",
    b'"', b"\xc3", b"\x85", b"K\xff", b"Q", b"R", b"b.", b"PK\x05\x06", b"PK\x01\x02", b"\x93NUMPY",
)
# fmt: on


def damaged(content, edits, inside=False):
    """The content after some edits (kind, place, text): `place` in 0..65535 is a share of the length.

    With `inside`, a member of a zip archive is edited, and the archive made anew with the right checksums.
    """
    if not inside or not zipfile.is_zipfile(io.BytesIO(content)):
        for kind, place, text in edits:
            content = _edited(content, kind, place * len(content) >> 16, text)
        return content
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        chosen = edits[0][1] * len(old.namelist()) >> 16
        for n, name in enumerate(old.namelist()):
            member = old.read(name)
            new.writestr(name, damaged(member, [*edits[1:], edits[0]]) if n == chosen else member)
    return made.getvalue()


def _edited(content, kind, at, text):
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        mask = text[:1] or b"\x01"
        return content[:at] + bytes(byte ^ (mask[0] or 1) for byte in content[at : at + 1]) + content[at + 1 :]
    if kind == "overwrite":
        return content[:at] + text + content[at + len(text) :]
    if kind == "insert":
        return content[:at] + text + content[at:]
    if kind == "delete":
        return content[:at] + content[at + len(text) + 1 :]
    return content[:at] + content[at : at + 16] * (2 + len(text)) + content[at + 16 :]
