"""Files that try to make a video reader open another file or the network, and bait that notices when one
does.
"""

import contextlib
import ctypes
import os
import socket
import struct
from pathlib import Path

from clips import write_clip

IN_ACCESS = 0x1
IN_OPEN = 0x20
IN_NONBLOCK = 0o4000


class Bait:
    """A file (`path`) and a listener (`address`, HOST:PORT) that no reader should touch."""

    def __init__(self, folder: Path) -> None:
        self.path = write_clip(folder / "canary.ts", frames=5, container="mpegts")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        system = ctypes.CDLL(None, use_errno=True)
        self.watch = system.inotify_init1(IN_NONBLOCK)
        assert system.inotify_add_watch(self.watch, os.fsencode(self.path), IN_OPEN | IN_ACCESS) > 0

    def touched(self) -> tuple[int, int]:
        """How often the file was opened or read (0 or more), and how many connections came, since the last
        call.
        """
        reads = connections = 0
        with contextlib.suppress(BlockingIOError):
            reads = len(os.read(self.watch, 1 << 16)) // 16
        with contextlib.suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
                connections += 1
        return reads, connections

    def close(self) -> None:
        os.close(self.watch)
        self.listener.close()


def attacks(folder: Path, bait: Bait) -> dict[str, tuple[Path, str]]:
    """What it is: (the file, the demuxer whose name it would go by). Every one refers to the bait."""
    made = {
        f"{what} as {suffix}": (content, suffix)
        for what, content in texts(bait).items()
        for suffix in ("mp4", "mkv")
    }
    made["playlist as m3u8"] = (texts(bait)["playlist"], "m3u8")
    made["playlist as avi"] = (texts(bait)["playlist"], "avi")
    made |= {what: (content, "mp4") for what, content in quicktimes(folder, bait).items()}
    made |= {what: (content, "mkv") for what, content in matroskas(folder).items()}
    made["avi with a playlist for subtitles"] = (avi_with_subtitles(folder, texts(bait)["playlist"]), "avi")
    demuxers = {"mkv": "matroska", "avi": "avi"}
    files = {}
    for number, (what, (content, suffix)) in enumerate(made.items()):
        path = folder / f"attack-{number}.{suffix}"
        path.write_bytes(content)
        files[what] = (path, demuxers.get(suffix, "mov"))
    return files


def texts(bait: Bait) -> dict[str, bytes]:
    path = bait.path
    address = bait.address
    playlist = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n"
        f"#EXTINF:1,\nhttp://{address}/a.ts\n#EXT-X-ENDLIST\n"
    )
    encrypted = f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{path}"\n#EXTINF:1,\nhttp://{address}/\n'
    nested = (
        f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{path}\n#EXT-X-STREAM-INF:BANDWIDTH=2\nhttp://{address}/\n"
    )
    protocols = f"#EXTM3U\n#EXTINF:1,\nconcat:{path}|{path}\n#EXTINF:1,\nsubfile,,start,0,end,9,,:{path}\n"
    port = address.split(":")[1]
    session = (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} "
        "RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" type="static">'
        '<Period><AdaptationSet><Representation id="1" '
        f'bandwidth="1"><BaseURL>http://{address}/a.mp4</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )
    packets = [b"G" + playlist.encode()[i : i + 187].ljust(187, b"\n") for i in range(0, 600, 187)]
    return {
        "playlist": playlist.encode(),
        "playlist with its key elsewhere": encrypted.encode(),
        "playlist of playlists": nested.encode(),
        "playlist with a protocol": protocols.encode(),
        "playlist behind a byte order mark": b"\xef\xbb\xbf" + playlist.encode(),
        "playlist behind blanks": b" \t\r\n\n" + playlist.encode(),
        "playlist in UTF-16": playlist.encode("utf-16"),
        "playlist in UTF-16, big end first": playlist.encode("utf-16-be"),
        "playlist in transport packets": b"".join(packets),
        "session": session.encode(),
        "session behind a comment": b"\n" + session.encode(),
        "concat script": f"ffconcat version 1.0\nfile '{path}'\nfile 'http://{address}/a.mp4'\n".encode(),
        "concat script without a head": f"file '{path}'\n".encode(),
        "dash": dash.encode(),
        "smil": f'<smil><body><video src="{path}"/></body></smil>'.encode(),
        "zip": b"PK\x03\x04" + playlist.encode(),
        "matroska without its name, a session inside": b"\x1aE\xdf\xa3\xff\n" + session.encode() * 3,
        "flash whose head is not one": b"FLV\x01\x05\n" + session.encode() * 3,
    }


def quicktimes(folder: Path, bait: Bait) -> dict[str, bytes]:
    whole = write_clip(folder / "plain.mp4", frames=5).read_bytes()
    location = str(bait.path).encode()

    def entry(kind: bytes, body: bytes, flags: int = 0) -> bytes:
        return struct.pack(">I4sI", 12 + len(body), kind, flags) + body

    padded = location + b"\0" * (len(location) % 2)
    alias = bytes(10) + b"\x06canary".ljust(28, b"\0") + bytes(12) + b"\x09canary.ts".ljust(64, b"\0")
    alias += (
        bytes(16)
        + struct.pack(">HH", 1, 1)
        + bytes(16)
        + struct.pack(">HH", 2, len(location))
        + padded
        + struct.pack(">HH", 0xFFFF, 0)
    )
    inner = b"moovtrakmdiaminfdinfdref"
    names = [inner[i : i + 4] for i in range(0, len(inner), 4)]
    return {
        "mov, its data at a path": replaced(whole, names, entry(b"url ", b"file://" + location + b"\0")),
        "mov, its data on the network": replaced(
            whole, names, entry(b"url ", f"http://{bait.address}/a.mov\0".encode())
        ),
        "mov, its data behind an alias": replaced(whole, names, entry(b"alis", alias)),
        "mov, an alias that says it is the file itself": replaced(whole, names, entry(b"alis", alias, 1)),
        "mov, a reference movie": struct.pack(">I4s", 16, b"ftyp")
        + b"qt  "
        + bytes(4)
        + box(b"moov", box(b"rmra", box(b"rmda", location))),
        "mov, its header compressed": struct.pack(">I4s", 16, b"ftyp")
        + b"qt  "
        + bytes(4)
        + box(b"moov", box(b"cmov", bytes(40))),
    }


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def replaced(whole: bytes, names: list[bytes], entry: bytes) -> bytes:
    """An mp4 (its moov last) whose only data reference is `entry`."""
    data = bytearray(whole)
    at = 0
    for name in names:
        at = data.index(name, at)
        size = int.from_bytes(data[at - 4 : at], "big")
        data[at - 4 : at] = (size + len(entry) - 12).to_bytes(4, "big")
    assert data[at + 16 : at + 20] == b"url "
    data[at + 12 : at + 24] = entry
    return bytes(data)


def matroskas(folder: Path) -> dict[str, bytes]:
    whole = write_clip(folder / "plain.mkv", frames=5).read_bytes()
    at = whole.index(b"\x18\x53\x80\x67") + 4  # behind the Segment's name comes its size
    length = 9 - whole[at].bit_length()
    size = int.from_bytes(whole[at : at + length], "big") & ((1 << 7 * length) - 1)
    number = b"0123456789abcdef"
    linked = {
        "mkv that names the file before it": ebml(0x1549A966, ebml(0x3C83AB, b"canary.ts")),
        "mkv that gives the number of the one after it": ebml(0x1549A966, ebml(0x3EB923, number)),
        "mkv with a chapter elsewhere": ebml(0x1043A770, ebml(0x45B9, ebml(0xB6, ebml(0x6E67, number)))),
    }
    return {
        what: whole[:at]
        + (size + len(element) | 1 << 7 * length).to_bytes(length, "big")
        + element
        + whole[at + length :]
        for what, element in linked.items()
    }


def ebml(kind: int, body: bytes) -> bytes:
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + bytes([0x80 | len(body)]) + body


def avi_with_subtitles(folder: Path, playlist: bytes) -> bytes:
    """An AVI with a second track, text, whose one piece is a subtitle file that is a playlist."""
    data = bytearray(
        write_clip(folder / "plain.avi", codec="mpeg4", options={"bf": "0"}, frames=5).read_bytes()
    )
    header = struct.pack(
        "<4s4sIHHIIIIIIII", b"txts", bytes(4), 0, 0, 0, 0, 1, 25, 0, 1, 1 << 16, 0, 0
    ) + bytes(8)
    track = chunk(b"LIST", b"strl" + chunk(b"strh", header) + chunk(b"strf", bytes(4)))
    name = "canary".encode("utf-16-le")
    piece = (
        b"GAB2\0" + struct.pack("<HI", 2, len(name)) + name + struct.pack("<HI", 4, len(playlist)) + playlist
    )
    text = chunk(b"01tx", piece)
    movie = data.index(b"movi") - 8
    end = movie + 8 + int.from_bytes(data[movie + 4 : movie + 8], "little")
    data[movie + 4 : movie + 8] = struct.pack("<I", end - movie - 8 + len(text))
    data[end:end] = text
    hdrl = data.index(b"hdrl") - 8
    size = int.from_bytes(data[hdrl + 4 : hdrl + 8], "little")
    data[hdrl + 4 : hdrl + 8] = struct.pack("<I", size + len(track))
    data[hdrl + 8 + size : hdrl + 8 + size] = track
    streams = data.index(b"avih") + 8 + 24
    data[streams : streams + 4] = struct.pack("<I", 2)
    data[4:8] = struct.pack("<I", len(data) - 8)
    return bytes(data)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(body)) + body + b"\0" * (len(body) % 2)
