"""Law: what comes out of a frame is bounded before anything is built, and never longer than it said.

A frame is Zstandard's (RFC 8878), with its content size written down. What unpacks differs from what was packed only by
a programming error; the packed bytes themselves may differ between versions of the library, so nothing compares those.
"""

import sys
from functools import lru_cache
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""How every frame begins. No msgpack map and no payload of a codec does."""

LEVEL: Final = 15
LEVEL_OF_LARGE: Final = 1
LARGE_BYTES: Final = 64 * 1024
"""Above this an update is noise to a match finder: it would take 100 times as long and save nothing."""


class PackingError(ValueError):
    """Bytes that are no frame, one that does not say its size, or one of another size than it says.

    `is_oversized`: it says more than its reader allows.
    """

    def __init__(self, detail: str, *, is_oversized: bool = False) -> None:
        super().__init__(detail)
        self.is_oversized = is_oversized


def pack(data: bytes, dictionary: bytes = b"") -> bytes:
    """One frame. `dictionary`: bytes that both ends know, which what is like them may refer to."""
    level = LEVEL if len(data) <= LARGE_BYTES else LEVEL_OF_LARGE
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.content_size_flag: 1,
        zstd.CompressionParameter.checksum_flag: 0,
        zstd.CompressionParameter.dict_id_flag: 0,
    }
    return bytes(zstd.compress(data, options=options, zstd_dict=_known(dictionary)))


def unpack(frame: bytes, max_size_bytes: int, dictionary: bytes = b"") -> bytes:
    """What was packed.

    Raises:
        PackingError: it says that it holds more than `max_size_bytes`, or it is not exactly one whole frame.
    """
    try:
        declared = zstd.get_frame_info(frame).decompressed_size
        if declared is None:
            raise PackingError("frame: does not say how much it holds")
        if declared > max_size_bytes:
            raise PackingError(f"frame: holds {declared} bytes; at most {max_size_bytes}", is_oversized=True)
        reader = zstd.ZstdDecompressor(zstd_dict=_known(dictionary), options=_bounded(max_size_bytes))
        # One more than there should be, so that a longer one shows.
        data = bytes(reader.decompress(frame, declared + 1))
    except zstd.ZstdError as error:
        raise PackingError(f"frame: {error}") from None
    if len(data) != declared or not reader.eof or reader.unused_data:
        raise PackingError(f"frame: not one frame of {declared} bytes")
    return data


def _bounded(max_size_bytes: int) -> dict[int, int]:
    """No window larger than what may come out needs; it is what a reader sets memory aside for."""
    least, most = zstd.DecompressionParameter.window_log_max.bounds()
    return {zstd.DecompressionParameter.window_log_max: min(max(max_size_bytes.bit_length(), least, 17), most)}


@lru_cache(maxsize=4)
def _known(dictionary: bytes) -> "zstd.ZstdDict | None":
    # Shorter than this none is a dictionary to the library.
    return zstd.ZstdDict(dictionary, is_raw=True) if len(dictionary) >= 8 else None
