"""The published test vectors (facts computed with numpy, scikit-learn and scipy), one test per family, tolerance 1e-6."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from vlp_eval import bootstrap
from vlp_eval.metrics import calibration, decisions, fairness, grounding, ranking, retrieval, segmentation, shift
from vlp_eval.zero_shot import scoring

H1 = np.array([[0.1, 0.2, 0.1, 0], [0.2, 0.8, 0.6, 0.1], [0.1, 0.7, 0.9, 0.2], [0, 0.1, 0.2, 0.1]])
H2 = np.array([[0.1, 0.2, 0.1, 0], [0.2, 0.8, 0.6, 0.1], [0.1, 0.15, 0.9, 0.7], [0, 0.1, 0.2, 0.1]])
BOX = grounding.box_mask([(1, 1, 3, 3)], 4, 4)
Y = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 0])
S = np.array([0.9, 0.4, 0.35, 0.8, 0.4, 0.1, 0.4, 0.7, 0.6, 0.2])


def close(value: object, expected: object, tolerance: float = 1e-6) -> bool:
    return np.allclose(np.asarray(value, float), np.asarray(expected, float), rtol=0, atol=tolerance)


# G1


def test_pair_softmax() -> None:
    assert close(scoring.pair_softmax(0.30, 0.20), 0.5249791875)
    assert close(scoring.pair_softmax(0.30, 0.20, 0.07), 0.8066786302)


def test_xplainer_is_a_geometric_mean_of_pair_softmaxes() -> None:
    p = scoring.pair_softmax([0.30, 0.10, 0.40], [0.20, 0.25, 0.10], 0.5)
    assert close(p, [0.5498339973, 0.4255574832, 0.6456563062])
    assert close(scoring.xplainer(p), [0.5325949851, 0.4508319217])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("norm-mean-norm", 0.9899494937), ("mean-raw", 0.9838699101), ("mean-of-scores", 0.7), ("max-of-scores", 0.8)],
)
def test_four_ways_to_pool_prompts_are_four_classifiers(pooling: scoring.Pooling, expected: float) -> None:
    assert close(scoring.similarity([[0.6, 0.8]], [[1, 0], [0, 2]], pooling), expected)


def test_standardising_over_the_set_changes_decisions() -> None:
    sims = np.array([[0.30, 0.28], [0.25, 0.29], [0.20, 0.26]])
    assert sims.argmax(1).tolist() == [0, 1, 1]
    z = scoring.zscore(sims)
    assert close(z, [[1.224745, 0.267261], [0, 1.069045], [-1.224745, -1.336306]])
    assert z.argmax(1).tolist() == [0, 1, 0]


def test_conceptclip_mix() -> None:
    table = np.array([[0.1, 0.4], [0.3, 0.2], [0.5, 0.1], [0.2, 0.3]])  # cosines of patches with two concepts
    patches = np.c_[table, np.sqrt(1 - (table**2).sum(1))][None]
    local = 10 * scoring.local_scores(patches, np.eye(3)[:2], top=2)
    assert close(local, [[4.0, 3.5]])
    mixed = scoring.mix(softmax(local, axis=-1), softmax([[2.5, 3.0]], axis=-1), 0.5)
    assert close(softmax(local, axis=-1), [[0.6224593312, 0.3775406688]])
    assert close(mixed, [[0.5, 0.5]])


# G2


def test_multi_class_decisions() -> None:
    truth, guess = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    scores = decisions.class_decisions(truth, guess, 3, np.ones(6))
    assert close(scores["accuracy"], 2 / 3)
    assert close(scores["balanced_accuracy"], 2 / 3)
    assert close(scores["f1"], 0.6555555556)
    assert close(scores["mcc"], 0.5222329679)


def test_a_class_without_positives_is_undefined_not_a_half() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    scores = np.array([[0.4, 0.2, 0.1], [0.5, 0.6, 0.4], [0.6, 0.3, 0.2], [0.1, 0.35, 0.3]])
    each = [ranking.auroc(truth[:, c], scores[:, c]) for c in range(3)]
    assert each[:2] == [0.75, 0.75] and each[2] is None
    assert close(ranking.auroc(truth.ravel(), scores.ravel()), 0.84375)
    assert close([ranking.average_precision(truth[:, c], scores[:, c]) for c in range(2)], [0.8333333333] * 2)
    assert ranking.average_precision(truth[:, 2], scores[:, 2]) is None


# G3


def test_binary_ranking() -> None:
    assert close(ranking.auroc(Y, S), 0.76)
    assert close(ranking.average_precision(Y, S), 0.7892857143)
    assert close(ranking.best_f1(Y, S), 0.7692307692)
    point = ranking.youden(Y, S)
    assert close([point["threshold"], point["sensitivity"], point["specificity"]], [0.8, 0.4, 1.0])


def test_bootstrap_draws() -> None:
    weights = bootstrap.draw([str(number) for number in range(10)], 2000, seed=0).weights
    interval = bootstrap.Interval.of(ranking.Ranking.of(Y, S).auroc(weights))
    assert interval is not None
    assert (interval.skipped, interval.kept) == (7, 1993)
    assert close([interval.mean, interval.deviation], [0.7659651638, 0.1607861772])
    assert close([interval.low, interval.high], [0.4145833333, 1.0])


def test_delong() -> None:
    result = ranking.delong(Y, np.stack([S, S]))
    assert result is not None
    assert close([result.value[0], result.covariance[0, 0]], [0.76, 0.0262])
    assert result.p_value() == 1


# G4

TEXTS = np.array([[0.9, 0.1, 0.3], [0.2, 0.5, 0.6], [0.3, 0.8, 0.1], [0.7, 0.4, 0.2], [0.1, 0.65, 0.55]])
OF_IMAGE = np.array([0, 0, 1, 1, 2])


def in_order(similarity: ArrayLike, relevant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return relevance [Q, G] in order of falling similarity."""
    return np.take_along_axis(relevant, np.argsort(-np.asarray(similarity), axis=1, kind="stable"), axis=1)


def test_text_to_image() -> None:
    ranks = retrieval.rank_positives(TEXTS, OF_IMAGE[:, None] == np.arange(3))
    assert close([ranks.hits(k).mean() for k in (1, 2, 3)], [0.4, 0.8, 1.0])
    assert ranks.rank().tolist() == [1, 3, 1, 2, 2]


def test_image_to_text_with_several_captions() -> None:
    positive = np.arange(3)[:, None] == OF_IMAGE
    ranks = retrieval.rank_positives(TEXTS.T, positive)
    ranked = in_order(TEXTS.T, positive)
    assert close([ranks.hits(k).mean() for k in (1, 2, 3)], [2 / 3, 1, 1])
    assert close([retrieval.precision_at(ranked, k).mean() for k in (1, 2, 3)], [2 / 3, 0.5, 1 / 3])
    assert ranks.rank().tolist() == [1, 1, 2]
    assert close(retrieval.average_precisions(ranked).mean(), 2 / 3)


def test_one_to_one_ranks_as_open_clip() -> None:
    square = np.array([[0.9, 0.1, 0.2, 0.3], [0.8, 0.4, 0.1, 0.2], [0.3, 0.2, 0.5, 0.6], [0.1, 0.2, 0.3, 0.9]])
    ranks = retrieval.rank_positives(square, np.eye(4, dtype=bool))
    assert (ranks.rank("index") - 1).tolist() == [0, 1, 1, 0]
    assert close([ranks.hits(1).mean(), ranks.hits(2).mean()], [0.5, 1])
    assert (retrieval.rank_positives(square.T, np.eye(4, dtype=bool)).rank() - 1).tolist() == [0, 0, 0, 0]


def test_duplicate_texts_are_positives() -> None:
    pool = np.array([[0.9, 0.2, 0.9], [0.1, 0.8, 0.1], [0.7, 0.3, 0.7]])
    naive = retrieval.rank_positives(pool, np.eye(3, dtype=bool))
    assert close(naive.hits(1, "index").mean(), 2 / 3)
    same = np.array([0, 1, 0])
    assert retrieval.rank_positives(pool, same[:, None] == same).hits(1).tolist() == [1, 1, 1]


def test_precision_by_class() -> None:
    relevant = np.array([[1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 0]], dtype=bool)
    ranked = in_order([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.9, 0.1, 0.8, 0.2, 0.7, 0.3]], relevant)
    assert close(
        [retrieval.precision_at(ranked, k) for k in (1, 2, 3, 5)], [[1, 0], [0.5, 0], [2 / 3, 1 / 3], [0.4, 0.2]]
    )
    assert close(retrieval.average_precisions(ranked), [0.7222222222, 1 / 3])


# G5


def test_calibration_error() -> None:
    confidence, right = [0.95, 0.85, 0.75, 0.65, 0.55] * 2, [1, 1, 1, 0, 1, 1, 0, 1, 1, 0]
    assert close([calibration.calibration_error(confidence, right, bins) for bins in (5, 10, 15)], [0.09, 0.17, 0.17])
    assert calibration.calibration_error([], []) is None


def test_binary_calibration_is_on_the_probability_of_the_finding() -> None:
    p, y = np.array([0.93, 0.81, 0.33, 0.57, 0.22, 0.11]), np.array([1, 1, 0, 0, 0, 1])
    assert close(calibration.calibration_error(p, y, 5), 0.3783333333)
    assert close(calibration.calibration_error(np.maximum(p, 1 - p), (p > 0.5) == y, 5), 0.2916666667)


# G6


def test_equity() -> None:
    y, s = np.array([1, 1, 0, 0, 1, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1, 0.7, 0.3, 0.6, 0.4])
    groups = {name: ranking.auroc(y[part], s[part]) for name, part in (("a", slice(0, 4)), ("b", slice(4, 8)))}
    equity = fairness.equity_scaled(ranking.auroc(y, s), groups)
    assert equity is not None
    assert close([equity.scaled, equity.gap, equity.worst], [0.5833333333, 0.5, 0.5])
    accuracy = fairness.equity_scaled(0.75, {"a": 1.0, "b": 0.5})
    dice = fairness.equity_scaled(0.80, {"a": 0.85, "b": 0.78, "c": 0.70})
    assert accuracy is not None and dice is not None
    assert close([accuracy.scaled, dice.scaled], [0.5, 0.6837606838])
    with pytest.raises(ValueError, match="fractions"):
        fairness.equity_scaled(80.0, {"a": 85.0})


# G7


def test_out_of_distribution() -> None:
    inside = [
        0.99,
        0.97,
        0.95,
        0.93,
        0.91,
        0.9,
        0.88,
        0.86,
        0.84,
        0.82,
        0.8,
        0.78,
        0.76,
        0.74,
        0.72,
        0.7,
        0.65,
        0.6,
        0.5,
        0.3,
    ]
    outside = [0.92, 0.75, 0.62, 0.55, 0.45, 0.4, 0.35, 0.25, 0.2, 0.1]
    result = shift.out_of_distribution(inside, outside)
    assert result is not None
    assert close([result["ood_auroc"], result["fpr95"]], [0.845, 0.4])
    assert close(
        [result[name] for name in ("ap_in", "ap_out", "detection_accuracy")], [0.8998360117, 0.794264208, 0.825]
    )
    assert close(shift.max_softmax([[2, 1, 0], [0, 0, 0]]), [0.6652409558, 1 / 3])
    assert close(shift.energy([[2, 1, 0], [0, 0, 0]]), [2.4076059644, 1.0986122887])


def test_robustness_index() -> None:
    angles = np.array([0, 1, 2, 10, 11, 12.5]) / 10  # on a circle the nearest by cosine are those of the line
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    each = shift.neighbour_counts(rows, list("AABBAB"), [1, 2, 1, 2, 2, 1], 3, np.arange(6))
    assert each.sum(0).tolist() == [1, 6, 5, 6]
    assert close(shift.robustness(each.sum(0)), [0.5454545455, 7 / 6])


# G8


def test_contrast_to_noise() -> None:
    assert close(grounding.contrast_to_noise(H1, BOX), 4.826004826)
    assert close(grounding.contrast_to_noise(3 * H1 - 7, BOX), 4.826004826)
    assert close(grounding.contrast_to_noise(-H1, BOX), -4.826004826)
    assert close(grounding.contrast_to_noise(H2, BOX), 1.3467056998)
    blind = H1.copy()
    blind[:, 3] = np.nan
    assert close(grounding.contrast_to_noise(blind, BOX), 4.8112522432)
    union = grounding.box_mask([(1, 1, 3, 3), (0, 0, 1, 1)], 4, 4)
    assert close(grounding.contrast_to_noise(H1, union), 1.7447399941)
    assert grounding.contrast_to_noise(np.ones((4, 4)), BOX) is None


def test_mean_iou_over_thresholds() -> None:
    def both(result: tuple[list[float], float] | None) -> tuple[list[float], float]:
        assert result is not None
        return result

    each, mean = both(grounding.mean_iou(H1, BOX))
    assert close(each, [0.5, 1, 1, 1, 1]) and close(mean, 0.9)
    blind = H1.copy()
    blind[:, 3] = np.nan
    each, mean = both(grounding.mean_iou(blind, BOX))
    assert close(each[0], 0.5714285714) and close(mean, 0.9142857143)
    union = grounding.box_mask([(1, 1, 3, 3), (0, 0, 1, 1)], 4, 4)
    each, mean = both(grounding.mean_iou(H1, union))
    assert close(each, [0.4444444444, 0.8, 0.8, 0.8, 0.8]) and close(mean, 0.7288888889)
    each, mean = both(grounding.mean_iou(H2, BOX))
    assert close(each, [0.5, 0.6, 0.6, 0.6, 0.6]) and close(mean, 0.58)


def test_pixel_scores_and_dice() -> None:
    assert close(grounding.pixel_ranking(H2, BOX), [0.8958333333, 0.8125])
    dice = [grounding.dice_at(H2, BOX, t) for t in (0.1, 0.2, 0.3, 0.5, 0.65)]
    assert close(dice, [2 / 3, 0.75, 0.75, 0.75, 0.5714285714])


def test_the_box_of_a_map_against_the_nearest_box() -> None:
    """ChestX-ray8: the box around the part of {map > t} that holds the maximum; NaN is outside."""
    heat = np.zeros((20, 20))
    heat[4:8, 5:11], heat[15, 15] = 0.8, 0.6
    heat[5, 6] = 1
    assert grounding.box_of_map(heat, 0.5) == (5, 4, 11, 8)
    assert grounding.box_of_map(heat, 1.0) is None
    best = grounding.best_overlap((5, 4, 11, 8), [(0, 0, 2, 2), (5, 4, 8, 12), (3, 3, 3, 9)])
    assert close(best, [12 / 36, 12 / 24])  # 3 x 4 in common, of 24 + 24 - 12; of the detected 24
    assert grounding.best_overlap((5, 4, 11, 8), [(3, 3, 3, 9)]) is None


def test_pointing_game_takes_the_first_maximum() -> None:
    assert grounding.pointing_hit(H1, BOX) is True
    tie, truth = np.array([[0.9, 0.1], [0.9, 0.2]]), np.array([[False, False], [True, False]])
    assert grounding.pointing_hit(tie, truth) is False


def test_box_overlap() -> None:
    assert close(grounding.box_overlap((10, 10, 30, 30), (20, 20, 40, 50)), [1 / 9, 0.25])


def test_maps_are_smoothed_and_spread_as_scipy_and_torch_do() -> None:
    from vlp.batch import Grid
    from vlp.modalities.geometry import resample_grid
    from vlp_eval.maps.phrase_maps import smooth

    delta = np.zeros((7, 7))
    delta[3, 3] = 1
    blurred = smooth(delta, 1.5)
    assert close([blurred[3, 3], blurred[3, 0], blurred.sum()], [0.0707369861, 0.0115938475, 1])
    spread = resample_grid(np.array([[0.0, 1.0], [0.0, 0.0]]), Grid((2, 2), (2.0, 2.0), (1.0, 1.0)), (4, 4))
    assert close(spread, [[0, 0.25, 0.75, 1], [0, 0.1875, 0.5625, 0.75], [0, 0.0625, 0.1875, 0.25], [0, 0, 0, 0]])


# G9


def block(top: int, bottom: int) -> np.ndarray:
    mask = np.zeros((10, 10), dtype=bool)
    mask[top : bottom + 1, 2:7] = True
    return mask


def test_segmentation_in_two_dimensions() -> None:
    truth, near, far = block(2, 6), block(3, 7), block(5, 9)
    assert close([segmentation.dice(near, truth), segmentation.iou(near, truth)], [0.8, 2 / 3])
    assert close([segmentation.surface_dice(near, truth, t) for t in (0, 0.5, 1)], [0.5, 0.5, 1])
    assert close([segmentation.surface_dice(far, truth, t) for t in (1, 2, 3)], [0.5, 0.7124447238, 1])
    assert segmentation.hausdorff(near, truth) == 1


def test_this_file_needs_nothing_beside_the_repository() -> None:
    assert "shared" not in Path(__file__).read_text().replace('"shared"', "")
