"""The sampler's three filters, each against what it promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.infer.sampler import Sampler, choose, keep_top_k, keep_top_p

LOGITS = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))


def _draws(sampler: Sampler, count: int = 4000) -> np.ndarray:
    keys = jax.random.split(sampler.key(), count)
    drawn = jax.vmap(lambda key: choose(LOGITS, key, *sampler.settings()))(keys)
    return np.bincount(np.asarray(drawn).ravel(), minlength=4) / count


def test_greedy_takes_the_likeliest_whatever_the_key() -> None:
    assert _draws(Sampler())[1] == 1


def test_draws_follow_the_probabilities() -> None:
    np.testing.assert_allclose(_draws(Sampler(temperature=1.0)), [0.05, 0.5, 0.15, 0.3], atol=0.03)


def test_a_low_temperature_sharpens() -> None:
    np.testing.assert_allclose(
        _draws(Sampler(temperature=0.5))[1], 0.25 / (0.0025 + 0.25 + 0.0225 + 0.09), atol=0.03
    )


def test_top_k_and_top_p_cut_the_tail() -> None:
    np.testing.assert_allclose(_draws(Sampler(temperature=1.0, top_k=2)), [0, 0.625, 0, 0.375], atol=0.03)
    np.testing.assert_allclose(_draws(Sampler(temperature=1.0, top_p=0.7)), [0, 0.625, 0, 0.375], atol=0.03)
    assert _draws(Sampler(temperature=1.0, top_p=0.01))[1] == 1


@pytest.mark.parametrize(("top_k", "kept"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_top_k_keeps_so_many(top_k: int, kept: int) -> None:
    assert int(jnp.isfinite(keep_top_k(LOGITS, top_k)).sum()) == kept


@pytest.mark.parametrize(("top_p", "kept"), [(1.0, 4), (0.96, 4), (0.9, 3), (0.55, 2), (0.45, 1)])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: int) -> None:
    assert int(jnp.isfinite(keep_top_p(LOGITS, top_p)).sum()) == kept


def test_the_same_seed_draws_the_same() -> None:
    sampler = Sampler(temperature=1.0, seed=3)
    np.testing.assert_array_equal(_draws(sampler, 50), _draws(sampler, 50))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}],
)
def test_impossible_knobs_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="was given"):
        Sampler(**settings)  # type: ignore[arg-type]
