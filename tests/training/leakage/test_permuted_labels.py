"""Permutation test: permuted labels are not predictable, unless a procedure sees labels that it must not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ContractError
from scoring.features import FeatureContract
from tests.support.leaky_examples import Labels, make, run
from training.evaluation.bootstrap import clusters
from training.leakage.permutation_test import auc_error, effective, permute


def test_a_model_of_honest_examples_cannot_foretell_permuted_labels() -> None:
    table, label = make(4_000, 9)

    for seed in range(5):
        assert abs(run(table, label, seed=seed).permuted_auc - 0.5) < 0.1


def test_a_procedure_that_sees_the_judged_labels_is_refused() -> None:
    table, label = make(4_000, 10)

    def peeks(
        _rows: pa.Table, _contract: FeatureContract, label: Labels, user: npt.NDArray[np.int64], _learned: Any
    ) -> npt.NDArray[np.float64]:
        """Encode each user by the mean of all their labels, including those of the test."""
        return np.bincount(user, label)[user] / np.bincount(user)[user]

    with pytest.raises(
        ContractError, match=r"labels permuted between users.* AUC [.\d]+\. Chance gives \.\d+ to \.\d+"
    ):
        run(table, label, rank=peeks)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 99))
def test_permuting_keeps_every_label_and_users_of_one_exit_each_only_change_places(users: list[int], seed: int) -> None:
    user = clusters(np.array(users))
    label = np.arange(len(users))

    permuted = permute(label, user, np.random.default_rng(seed))

    assert sorted(permuted) == sorted(label)


def test_the_exits_of_a_user_still_end_alike_after_permuting() -> None:
    user = np.random.default_rng(11).permutation(np.repeat(np.arange(50), 4))
    label = (user % 2).astype(np.int64)

    permuted = permute(label, user, np.random.default_rng(12))

    assert all(len(set(permuted[user == one])) == 1 for one in range(50))
    assert 10 < sum(bool((permuted[user == one] == label[user == one]).all()) for one in range(50)) < 40


def test_the_error_of_an_auc_is_that_of_hanley_and_mcneil() -> None:
    # Their example: 58 normal and 51 abnormal images, area .893 (Radiology 143, 1982, table II and page 33): .032.
    assert auc_error(0.893, 51, 58) == pytest.approx(0.032, abs=0.0006)
    assert auc_error(0.5, 100, 300) == pytest.approx(np.sqrt(401 / (12 * 100 * 300)), rel=0.01)


def test_exits_of_one_user_count_as_one_where_users_have_equally_many() -> None:
    assert effective(np.repeat(np.arange(30), 7)) == pytest.approx(30)
    assert effective(np.arange(30)) == pytest.approx(30)
    assert effective(np.array([0] * 30)) == pytest.approx(1)
    assert effective(np.array([], dtype=np.int64)) == 0
