"""Measures of masks and maps of volumes: published vectors, the peer library, and what must hold in any number of axes."""

from __future__ import annotations

import numpy as np
import pytest

from vlp_eval.metrics import grounding
from vlp_eval.metrics.segmentation import dice, hausdorff, iou, surface_dice

SHAPE, SPACING = (16, 20, 24), (3.0, 1.0, 1.0)
Z, Y, X = np.indices(SHAPE)
BOX = (Z >= 4) & (Z <= 7) & (Y >= 6) & (Y <= 11) & (X >= 8) & (X <= 15)
BALL = (3 * (Z - 9)) ** 2 + (Y - 10) ** 2 + (X - 12) ** 2 <= 36
MAP = np.exp(-((3 * (Z - 6)) ** 2 + (Y - 9) ** 2 + (X - 11) ** 2) / 32)
EDGES = (8.0, 6.0, 4.0, 16.0, 12.0, 8.0)


# surface-distance 0.1: masks, Dice, NSD at .5, 1, 2, 3 and 5 mm, HD95 and HD100 in mm
VECTORS = {
    "rows": (BOX, np.roll(BOX, 2, 1), 0.666667, (0.485925, 0.629717, 1, 1, 1), 2.0, 2.0),
    "slice": (BOX, np.roll(BOX, 1, 0), 0.75, (0.718856, 0.769914, 0.800549, 1, 1), 3.0, 3.0),
    "both": (BOX, np.roll(BOX, (1, 2), (0, 1)), 0.5, (0.322859, 0.461544, 0.800549, 0.943019, 1), 3.162278, 3.605551),
    "ball": (BALL, np.roll(BALL, 2, 2), 0.761092, (0.576233, 0.861893, 1, 1, 1), 2.0, 2.0),
    "equal": (BALL, BALL, 1.0, (1, 1, 1, 1, 1), 0.0, 0.0),
}


@pytest.mark.parametrize("name", VECTORS)
def test_surfaces_are_measured_as_surface_distance_does(name: str) -> None:
    first, second, overlap, shares, robust, whole = VECTORS[name]
    assert dice(first, second) == pytest.approx(overlap, abs=1e-6)
    for tolerance, share in zip((0.5, 1, 2, 3, 5), shares, strict=True):
        assert surface_dice(second, first, tolerance, SPACING) == pytest.approx(share, abs=1e-6)
    assert hausdorff(second, first, 95, SPACING) == pytest.approx(robust, abs=1e-6)
    assert hausdorff(second, first, 100, SPACING) == pytest.approx(whole, abs=1e-6)


def test_a_forgotten_spacing_is_another_score() -> None:
    shifted = np.roll(BOX, (1, 2), (0, 1))
    assert surface_dice(shifted, BOX, 1) == pytest.approx(0.734514, abs=1e-6)
    assert hausdorff(shifted, BOX) == pytest.approx(2.0)


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (1.25, 0.7, 0.7), (2.0, 1.5, 0.5)])
def test_ragged_masks_equal_the_peer_library(spacing: tuple[float, ...]) -> None:
    peer = pytest.importorskip("surface_distance")
    rng = np.random.default_rng(3)
    from scipy.ndimage import gaussian_filter

    for sigma in (0.6, 1.5):
        first, second = (gaussian_filter(rng.standard_normal((9, 11, 13)), sigma) > 0.1 for _ in range(2))
        found = peer.compute_surface_distances(second, first, spacing)
        for tolerance in (0.5, 1.0, 2.0):
            wanted = peer.compute_surface_dice_at_tolerance(found, tolerance)
            assert surface_dice(first, second, tolerance, spacing) == pytest.approx(wanted, abs=1e-6)
        for percent in (50, 95, 100):
            wanted = peer.compute_robust_hausdorff(found, percent)
            assert hausdorff(first, second, percent, spacing) == pytest.approx(wanted, abs=1e-6)


def test_empty_masks_have_no_score() -> None:
    nothing = np.zeros(SHAPE, bool)
    assert dice(nothing, nothing) is iou(nothing, nothing) is surface_dice(nothing, nothing, 2.0, SPACING) is None
    assert hausdorff(nothing, BOX, 95, SPACING) is hausdorff(BOX, nothing, 95, SPACING) is None
    assert dice(nothing, BOX) == surface_dice(nothing, BOX, 2.0, SPACING) == 0.0


def test_maps_on_a_volume_score_as_published() -> None:
    assert np.array_equal(grounding.box_mask([EDGES], *SHAPE), BOX)
    assert grounding.pointing_hit(MAP, BOX) is True
    assert grounding.contrast_to_noise(MAP, BOX) == pytest.approx(2.277769, abs=1e-6)
    assert grounding.contrast_to_noise(MAP, BALL) == pytest.approx(0.287148, abs=1e-6)
    ranking = grounding.pixel_ranking(MAP, BOX)
    assert ranking is not None and ranking[0] == pytest.approx(0.990029, abs=1e-6)


def test_the_distance_of_the_maximum_to_the_boxes_is_in_millimetres() -> None:
    assert grounding.distance_to_boxes(MAP, [EDGES], SPACING) == 0.0
    away = np.zeros(SHAPE)
    away[9, 13, 11] = 1  # 1.5 slices and 1.5 rows beyond the box's edges, in its columns
    expected = np.hypot(1.5 * 3, 1.5 * 1)
    assert grounding.distance_to_boxes(away, [EDGES], SPACING) == pytest.approx(expected)
    near = (11.0, 13.0, 9.0, 12.0, 14.0, 10.0)
    assert grounding.distance_to_boxes(away, [EDGES, near], SPACING) == 0.0
    assert grounding.distance_to_boxes(np.full(SHAPE, np.nan), [EDGES], SPACING) is None


def test_the_depth_error_stands_beside_a_random_slice() -> None:
    found = grounding.depth_error(MAP, [EDGES], SPACING[0])
    every = [abs(place + 0.5 - 6.0) * 3 for place in range(SHAPE[0])]  # the box's middle lies at the edge of slice 6
    assert found == (pytest.approx(0.5 * 3), pytest.approx(np.mean(every)))
    half = np.where(Z < 8, MAP, np.nan)
    assert grounding.depth_error(half, [EDGES], 3.0) == (1.5, pytest.approx(np.mean(every[:8])))
    assert grounding.depth_error(np.full(SHAPE, np.nan), [EDGES], 3.0) is None


def test_boxes_of_volumes_overlap_by_their_content() -> None:
    first, second = (0.0, 0.0, 0.0, 4.0, 2.0, 2.0), (2.0, 0.0, 0.0, 6.0, 2.0, 1.0)
    assert grounding.box_overlap(first, second) == (4 / (16 + 8 - 4), 4 / 16)
    assert grounding.box_of_map(MAP, 0.5) == (7.0, 5.0, 5.0, 16.0, 14.0, 8.0)
    assert grounding.best_overlap(first, [second, first]) == (1.0, 1.0)
    assert grounding.best_overlap(first, [(0.0, 0.0, 1.0, 4.0, 2.0, 1.0)]) is None


def test_a_volume_of_equal_slices_scores_as_its_slice() -> None:
    rng = np.random.default_rng(0)
    flat, inside = rng.random((9, 11)), rng.random((9, 11)) > 0.7
    heat, truth = np.repeat(flat[None], 5, 0), np.repeat(inside[None], 5, 0)
    for measure in (grounding.contrast_to_noise, grounding.pointing_hit):
        assert measure(heat, truth) == pytest.approx(measure(flat, inside))
    assert grounding.mean_iou(heat, truth) == grounding.mean_iou(flat, inside)
    assert grounding.pixel_ranking(heat, truth) == pytest.approx(grounding.pixel_ranking(flat, inside))
    assert dice(truth, heat > 0.5) == pytest.approx(dice(inside, flat > 0.5))
    assert grounding.dice_at(heat, truth, 0.5) == pytest.approx(grounding.dice_at(flat, inside, 0.5))
