"""The checksum of tar-split, against its definition."""

from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.storage.layer.crc64 import Crc64


def _by_definition(data: bytes) -> bytes:
    state = (1 << 64) - 1
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0xD800000000000000 if state & 1 else 0)
    return (state ^ ((1 << 64) - 1)).to_bytes(8, "big")


def test_catalogue_check_value() -> None:
    checksum = Crc64()
    checksum.update(b"123456789")
    assert checksum.digest().hex() == "b90956c775a41001"


def test_nothing_has_the_checksum_zero() -> None:
    assert Crc64().digest() == bytes(8)


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_pieces_of_any_length_give_the_same_as_the_definition(pieces: list[bytes]) -> None:
    checksum = Crc64()
    for piece in pieces:
        checksum.update(piece)
    assert checksum.digest() == _by_definition(b"".join(pieces))


def test_large_pieces_agree_with_small_ones() -> None:
    data = bytes(range(256)) * 1031
    whole, parts = Crc64(), Crc64()
    whole.update(data)
    for start in range(0, len(data), 4099):
        parts.update(data[start : start + 4099])
    assert whole.digest() == parts.digest() == _by_definition(data)
