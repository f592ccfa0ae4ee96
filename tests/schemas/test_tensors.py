"""Tensors cross the wire exactly, and what does not fit is named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headwater.schemas.messages import Tensor
from headwater.schemas.tensors import TensorError, decode_tensor, decode_tensors, encode_tensor, encode_tensors

DTYPES = {np.float32: 32, np.float64: 64, np.int32: None, np.int64: None}


@st.composite
def drawn_arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(list(DTYPES)))
    width = DTYPES[dtype]
    elements = st.floats(allow_nan=False, allow_infinity=False, width=width) if width else None
    return draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, max_side=5), elements=elements))


@given(drawn_arrays())
def test_a_tensor_comes_back_as_it_was(array: np.ndarray) -> None:
    back = decode_tensor(encode_tensor(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_the_bytes_are_little_endian_row_major() -> None:
    assert encode_tensor(np.array([1.0], ">f4")).data == b"\x00\x00\x80?"
    transposed = np.array([[1, 2], [3, 4]], np.int32).T
    np.testing.assert_array_equal(decode_tensor(encode_tensor(transposed)), transposed)


@pytest.mark.parametrize(
    ("tensor", "reason", "says"),
    [
        (Tensor(dtype="float32", shape=(2,), data=b"1234"), "malformed", "4 bytes where .2. float32 takes 8"),
        (Tensor(dtype="float32", shape=(2**31 - 1,) * 4, data=b""), "malformed", "0 bytes where"),
        (encode_tensor(np.array([np.nan], np.float32)), "not_finite", "NaN or infinity"),
        (encode_tensor(np.array([np.inf], np.float64)), "not_finite", "NaN or infinity"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(tensor: Tensor, reason: str, says: str) -> None:
    with pytest.raises(TensorError, match=says) as caught:
        decode_tensor(tensor)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([("w", (2,), "float32")], "1 belong"),
        ([("w", (2,), "float32"), ("b", (2,), "float32")], r"b: float32 \[1\] where float32 \[2\] belongs"),
        ([("w", (2,), "float64"), ("b", (1,), "float32")], "w: float32"),
    ],
)
def test_tensors_are_held_against_the_manifest(specs: list[tuple[str, tuple[int, ...], str]], says: str) -> None:
    tensors = encode_tensors([np.zeros(2, np.float32), np.zeros(1, np.float32)])
    with pytest.raises(TensorError, match=says):
        decode_tensors(tensors, specs)


def test_a_dtype_without_a_name_does_not_travel() -> None:
    with pytest.raises(ValueError, match="float16 does not travel"):
        encode_tensor(np.zeros(1, np.float16))
