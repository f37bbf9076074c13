"""One id space: where everything lies, that the way back is checked, and that a dictionary brings it back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.vocabulary import Vocabulary

SMALL = Vocabulary(text_size=100, num_codes=16, bos=1, eos=2, vision_start=(5,), vision_end=(6,))


def test_ids_follow_one_another():
    assert (SMALL.code_offset, SMALL.eof, SMALL.eov, SMALL.size) == (100, 116, 117, 118)


def test_lwm_pads_its_vision_table():
    lwm = Vocabulary(32000, 8192, 1, 2, (529, 4924, 29958), (1533, 4924, 29958), vision_size=8448)
    assert (lwm.eof, lwm.eov, lwm.size) == (40192, 40193, 40448)


def test_time_stamps_can_have_ids_of_their_own():
    stamped = Vocabulary(100, 16, 1, 2, (5,), (6,), stamps=63)
    assert (stamped.eov, stamped.minutes, stamped.size) == (117, 2, 181)
    assert [stamped.stamp(0, 0), stamped.stamp(1, 59)] == [181, 181 + 119]
    assert [stamped.stamp(0, 0, asked=True), stamped.stamp(1, 59, asked=True)] == [301, 301 + 119]
    assert not stamped.is_vision(np.arange(118, 300)).any()
    assert Vocabulary.from_dict(stamped.to_dict()) == stamped
    with pytest.raises(UserError, match="a time stamp of minute 2, second 0: expected a minute below 2"):
        stamped.stamp(2, 0)
    with pytest.raises(UserError, match="minute 0, second 60"):
        stamped.stamp(0, 60)
    with pytest.raises(UserError, match="a time stamp of minute 0"):
        SMALL.stamp(0, 3)
    for few in (12, 61):
        with pytest.raises(UserError, match="at least 62"):
            Vocabulary(100, 16, 1, 2, (5,), (6,), stamps=few)
    with pytest.raises(UserError, match="62 stamps: expected at least 80"):
        Vocabulary(100, 16, 1, 2, (5,), (6,), vision_size=40, stamps=62)


def test_codes_there_and_back():
    codes = np.arange(16, dtype=np.uint16).reshape(2, 8)
    tokens = SMALL.codes_to_tokens(codes)
    assert tokens.dtype == np.int32 and tokens.min() == 100
    np.testing.assert_array_equal(SMALL.tokens_to_codes(tokens), codes)
    inside_jit = jax.jit(lambda c: SMALL.tokens_to_codes(SMALL.codes_to_tokens(c)))(jnp.asarray(codes))
    np.testing.assert_array_equal(inside_jit, codes)


def test_wrong_codes_and_tokens_are_refused():
    with pytest.raises(UserError, match="codes from 3 to 16: expected 0 to 15"):
        SMALL.codes_to_tokens(np.array([3, 16]))
    with pytest.raises(UserError, match="tokens from 100 to 116"):
        SMALL.tokens_to_codes(np.array([100, SMALL.eof]))
    with pytest.raises(UserError, match="expected integers"):
        SMALL.codes_to_tokens(np.array([0.5]))


def test_is_vision():
    tokens = np.array([1, 5, 100, 115, 116, 117, 6])
    np.testing.assert_array_equal(SMALL.is_vision(tokens), [False, False, True, True, True, True, False])


def test_dictionary_there_and_back():
    assert Vocabulary.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(UserError, match="'colour' is unknown; bos is missing"):
        values = SMALL.to_dict() | {"colour": 1}
        del values["bos"]
        Vocabulary.from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_size": 17},
        {"bos": 100},
        {"vision_start": (100,)},
        {"vision_end": ()},
        {"num_codes": 0},
        {"text_size": 0},
    ],
)
def test_impossible_vocabularies_are_refused(change):
    values = {
        "text_size": 100,
        "num_codes": 16,
        "bos": 1,
        "eos": 2,
        "vision_start": (5,),
        "vision_end": (6,),
    } | change
    with pytest.raises(UserError):
        Vocabulary(**values)
