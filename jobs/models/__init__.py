"""Models in use: dataset, training, evaluation, promotion, choice of the champion."""
