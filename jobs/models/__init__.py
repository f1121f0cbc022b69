"""Life cycle of models: training examples, training, evaluation, promotion, rollback."""
