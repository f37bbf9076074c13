"""Values of a config.json are of their fields' types, or one error names all that are not."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ringvision.errors import UserError
from ringvision.fields import fitted
from ringvision.models.emu3_tokenizer import Emu3TokenizerConfig
from ringvision.models.transformer import PRESETS, TransformerConfig
from ringvision.models.vqgan import VQGANConfig
from ringvision.vocabulary import Vocabulary


@dataclass(frozen=True)
class Inner:
    text: str = "x"


@dataclass(frozen=True)
class Outer:
    whole: int
    real: float = 1.0
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    wholes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner | None = None


GOOD = {
    "whole": 3,
    "real": 2,
    "flag": True,
    "kind": "b",
    "wholes": [1, 2],
    "pair": [1, 2.5],
    "inner": {"text": "y"},
}


def test_values_become_what_the_fields_are() -> None:
    made = Outer(**fitted("an outer", Outer, GOOD))
    assert made == Outer(3, 2.0, True, "b", (1, 2), (1.0, 2.5), Inner("y"))
    assert isinstance(made.real, float)
    assert Outer(**fitted("an outer", Outer, {"whole": 3, "inner": None})) == Outer(3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("whole", value) for value in (True, 1.0, "3", None, [3], {}, 2**31, -(2**31), 10**400)),
        *(("real", value) for value in (True, "1", None, [1], float("inf"), float("nan"), 10**400)),
        *(("flag", value) for value in (0, "yes", None, [])),
        *(("kind", value) for value in ("c", 1, None, ["a"], {})),
        *(("wholes", value) for value in (1, "12", None, {}, [1.5], [[1]])),
        *(("pair", value) for value in ([1], [1, 2, 3], ["1", 2], None)),
        *(("inner", value) for value in (1, "x", [], {"text": 1}, {"other": "x"})),
    ],
)
def test_another_type_is_one_line_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=name) as raised:
        fitted("an outer", Outer, GOOD | {name: value})
    assert str(raised.value).isprintable() and len(str(raised.value)) < 300


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(
        UserError,
        match="'colour' is unknown; flag is 7, expected true or false; whole is missing; expected the fields",
    ):
        fitted("an outer", Outer, {"flag": 7, "colour": "red"})
    with pytest.raises(UserError, match="an outer is 'x'; expected an object"):
        fitted("an outer", Outer, "x")


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (TransformerConfig, PRESETS["tiny"].to_dict()),
        (VQGANConfig, VQGANConfig().to_dict()),
        (Emu3TokenizerConfig, Emu3TokenizerConfig(VQGANConfig()).to_dict()),
        (Vocabulary, Vocabulary(9, 4, 1, 2, (3,), (4,)).to_dict()),
    ],
)
def test_every_field_of_a_config_is_looked_at(kind: Any, good: dict[str, Any]) -> None:
    assert kind.from_dict(good).to_dict() == good
    for name in good:
        for value in ({"a": 1}, ["x"], "no such", 10**400, 1e300 if isinstance(good[name], int) else "1"):
            with pytest.raises(UserError):
                kind.from_dict(good | {name: value})
