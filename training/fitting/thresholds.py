"""Replaces split thresholds of a fitted booster that are values of its examples.

XGBoost splits a number at values that it saw. A threshold that fewer than 50 users share becomes a short decimal between the two
neighbouring values. Every example goes the same way as before, and the model holds no user's own number.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost as xgb

from scoring.features import FeatureContract, Matrix
from scoring.shared_values import SharedNumbers


def without_values(
    booster: xgb.Booster, contract: FeatureContract, matrix: Matrix, users: npt.NDArray[Any]
) -> xgb.Booster:
    """Return the booster without thresholds that are a value of fewer than 50 users.

    `matrix` holds the encoded rows that it was fitted on; `users` holds each row's user.
    """
    model = json.loads(bytes(booster.save_raw("json")))
    numbers: dict[int, SharedNumbers] = {}
    replaced: dict[tuple[int, float], float] = {}
    for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
        for node, child in enumerate(tree["left_children"]):
            position, threshold = tree["split_indices"][node], tree["split_conditions"][node]
            # A leaf has no children, and categories have no order.
            if child == -1 or contract.features[position].type == "category":
                continue
            if position not in numbers:
                numbers[position] = SharedNumbers(matrix[:, position], users)
            if (position, threshold) not in replaced:
                replaced[position, threshold] = numbers[position].below(float(np.float32(threshold)))
            tree["split_conditions"][node] = float(replaced[position, threshold])
    return xgb.Booster(booster_config(booster), model_file=bytearray(json.dumps(model).encode()))


def booster_config(booster: xgb.Booster) -> dict[str, Any]:
    """Return the settings that a booster loaded from a model file loses: its number of threads."""
    generic = json.loads(booster.save_config())["learner"]["generic_param"]
    return {"nthread": int(generic["nthread"])}
