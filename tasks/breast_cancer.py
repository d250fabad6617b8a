"""Is a tumour malignant or benign? 569 patients, 30 measurements each, as scikit-learn bundles them.

A small example of a task of your own: hospitals that may not share their patients' records train one model
together. docs/tasks.md goes through it; experiments name it `task = "breast_cancer:BreastCancer"`.
"""

import numpy as np
from roundtable.tasks import Data, Task


class BreastCancer(Task):
    classes = ("malignant", "benign")

    def __init__(self, hidden: int = 16) -> None:
        self.hidden = hidden

    def load(self, _data_dir):
        from sklearn.datasets import load_breast_cancer  # bundled: no file is read

        x, y = load_breast_cancer(return_X_y=True)
        x, y = x.astype(np.float32), y.astype(np.uint8)
        test = np.arange(len(x)) % 5 == 4  # the same split everywhere: every fifth patient
        return Data(x_train=x[~test], y_train=y[~test], x_test=x[test], y_test=y[test])

    def model(self):
        import keras
        from keras import layers

        return keras.Sequential(
            [
                keras.Input((30,), dtype="float32"),
                layers.BatchNormalization(momentum=0.9),  # millimetres and counts to one scale
                layers.Dense(self.hidden, activation="relu"),
                layers.Dropout(0.2),
                layers.Dense(1),
            ]
        )

    def loss(self):
        import keras

        return keras.losses.BinaryCrossentropy(from_logits=True)

    def metrics(self, y, predictions):
        import tensorflow as tf

        benign = predictions[:, 0] > 0  # [batch]
        malignant = tf.equal(y, 0)
        right = tf.not_equal(benign, malignant)
        missed = tf.logical_and(benign, malignant)

        def count(which):
            return tf.reduce_sum(tf.cast(which, tf.float32))

        return {"accuracy": count(right), "missed": tf.stack([count(missed), count(malignant)])}
