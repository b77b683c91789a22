"""Heights of a polyline, by hand."""

from __future__ import annotations

import numpy as np

from blemish.metrics.polyline import heights_at, left_heights_at

FPR = np.array([0.0, 0.5, 0.5, 1.0])
TPR = np.array([0.0, 0.25, 0.75, 1.0])


def test_where_the_line_rises_vertically_one_gives_the_top_and_the_other_the_foot():
    x = np.array([0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(heights_at(FPR, TPR, x), [0.125, 0.75, 0.875, 1.0])
    np.testing.assert_array_equal(left_heights_at(FPR, TPR, x), [0.125, 0.25, 0.875, 1.0])


def test_a_line_that_rises_at_its_ends_has_their_tops():
    fpr, tpr = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.5, 0.5, 1.0])
    np.testing.assert_array_equal(heights_at(fpr, tpr, np.array([0.0, 0.5, 1.0])), [0.5, 0.5, 1.0])
    np.testing.assert_array_equal(left_heights_at(fpr, tpr, np.array([0.5, 1.0])), [0.5, 0.5])
