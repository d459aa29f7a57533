"""Probes: each against an independent formula or scikit-learn, and what they see of frames."""

from typing import Any

import numpy as np
import pytest
import torch
from digits import digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, jaccard_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.frames.base import Frames, numbered
from curl_rl.representation.probes import PROBES, choose
from curl_rl.representation.probes.base import Subject, look_through, shrunk
from curl_rl.representation.probes.classifier import Classifier, few_of_each
from curl_rl.representation.probes.dense import mean_iou, of_cells
from curl_rl.types import ConfigError


def blobs(count: int = 240, classes: int = 3, spread: float = 1.0, **known) -> tuple[Frames, Tensor]:
    """Frames of ten a clip, and features that tell their classes apart to some degree."""
    rng = np.random.default_rng(0)
    own = torch.arange(count) // 10 % classes
    features = torch.from_numpy(rng.normal(size=(classes, 6)))[own] + spread * torch.from_numpy(
        rng.normal(size=(count, 6))
    )
    images = torch.from_numpy(rng.integers(256, size=(count, 1, 8, 8))).byte()
    episode = numbered([10] * (count // 10))
    return Frames(images, source="blobs", classes=own, episode=episode, **known), features.float()


def subject(frames: Frames, features: Tensor, maps: Tensor | None = None) -> Subject:
    """A subject that gives these features, whatever it is shown; frames are found by their pixels."""
    places = {frames.obs(torch.tensor([i])).numpy().tobytes(): i for i in range(len(frames))}

    def look(obs: Tensor) -> dict[str, Tensor]:
        ids = torch.tensor([places[each.numpy().tobytes()] for each in obs[:, None]])
        return {"features": features[ids]} if maps is None else {"features": features[ids], "map": maps[ids]}

    return Subject("given", look, frames)


def make(name: str, **fields: Any):
    return PROBES[name](PROBES[name].Config(**fields))


def test_the_classifier_is_scikit_learns():
    frames, features = blobs()
    classes = frames.classes
    fitted = Classifier(features[:150], classes[:150], 3)
    scale = features[:150].double().numpy()
    x = (features.double().numpy() - scale.mean(0)) / scale.std(0, ddof=1)
    oracle = LogisticRegression(max_iter=5000, tol=1e-10).fit(x[:150], classes[:150].numpy())
    mine = fitted(features).softmax(1).numpy()
    np.testing.assert_allclose(mine, oracle.predict_proba(x), atol=2e-4)
    assert fitted.accuracy(features[150:], classes[150:]) == oracle.score(x[150:], classes[150:].numpy())


def test_linear_fits_on_some_episodes_and_scores_on_the_others():
    frames, features = blobs()
    found = make("linear").measure(subject(frames, features), "features", seed=3)
    fitted, left_out = frames.split(0.25, seed=3)
    assert found == {
        "accuracy": Classifier(features[fitted], frames.classes[fitted], 3).accuracy(
            features[left_out], frames.classes[left_out]
        )
    }
    assert 0.6 < found["accuracy"] < 1
    unknown = Frames(
        frames.obs(torch.arange(240)),
        source="x",
        classes=torch.where(torch.arange(240) % 7 == 0, -1, frames.classes),
        episode=frames.episodes,
    )
    assert 0.5 < make("linear").measure(subject(unknown, features), "features", seed=3)["accuracy"] < 1


def test_rankings_are_measured_as_by_scikit_learn_and_by_hand():
    frames, features = blobs()
    found = make("retrieval", counts=(1, 5), queries=50).measure(subject(frames, features), "features", seed=3)
    asked = torch.randperm(len(frames), generator=torch.Generator().manual_seed(3))[:50].numpy()
    points, classes, episodes = features.numpy(), frames.classes.numpy(), frames.episodes.numpy()
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rows = []
    for i in asked:
        others = episodes != episodes[i]
        likeness, relevant = (points @ points[i])[others], classes[others] == classes[i]
        ranked = relevant[np.argsort(-likeness)]
        average = average_precision_score(relevant, likeness)
        rows.append(
            [ranked[0], ranked[0], ranked[:5].any(), ranked[:5].mean(), ranked[: relevant.sum()].mean(), average]
        )
    names = ["recall_1", "precision_1", "recall_5", "precision_5", "r_precision", "map"]
    assert list(found) == names
    np.testing.assert_allclose([found[name] for name in names], np.mean(rows, 0), atol=1e-6)


def test_frames_of_the_same_episode_are_looked_for_among_all_others():
    frames, features = blobs()
    found = make("same_episode", counts=(1, 5), queries=240).measure(subject(frames, features), "features", seed=0)
    points, episodes = features.double().numpy(), frames.episodes.numpy()
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rows = []
    for i in range(len(points)):
        others = np.arange(len(points)) != i
        ranked = (episodes[others] == episodes[i])[np.argsort(-(points @ points[i])[others])]
        rows.append([ranked[0], ranked[:5].any(), ranked[:5].mean(), ranked[: ranked.sum()].mean()])
    names = ["recall_1", "recall_5", "precision_5", "r_precision"]
    np.testing.assert_allclose([found[name] for name in names], np.mean(rows, 0), atol=1e-6)


def test_states_of_the_nearest_are_compared_with_the_best_possible():
    rng = np.random.default_rng(1)
    state = torch.from_numpy(rng.normal(size=(240, 3)) * [1, 10, 100]).float()
    frames, _ = blobs(state=state, state_names=("a", "b", "c"))
    standard = (state - state.mean(0)) / state.std(0)
    apart = frames.episodes[:, None] != frames.episodes
    distance = torch.cdist(standard, standard)
    best = distance.where(apart, torch.inf).topk(5, largest=False).values.mean()
    options = {"queries": 240}
    lifted = torch.cat([standard, 100 * torch.ones(240, 1)], 1)  # nearly flat, so that cosines order as distances do
    found = make("nearest_states", **options).measure(subject(frames, lifted.double()), "features", seed=0)
    np.testing.assert_allclose([found["distance"], found["best"]], [best, best], rtol=2e-3)
    np.testing.assert_allclose(found["any"], distance[apart].mean(), rtol=1e-3)
    worst = make("nearest_states", **options).measure(subject(frames, torch.randn(240, 4)), "features", seed=0)
    assert worst["distance"] > 2 * found["distance"]


def test_neighbours_vote_as_weighted_ones_of_scikit_learn():
    frames, features = blobs()
    found = make("neighbours", count=9, temperature=0.2).measure(subject(frames, features), "features", seed=1)
    known, left_out = (part.numpy() for part in frames.split(0.25, seed=1))
    x = nn.functional.normalize(features, dim=1).numpy()

    def weights(distance):  # of points on the unit sphere, from their cosine
        return np.exp((1 - distance**2 / 2) / 0.2)

    oracle = KNeighborsClassifier(9, weights=weights).fit(x[known], frames.classes[known].numpy())
    assert found["accuracy"] == pytest.approx(oracle.score(x[left_out], frames.classes[left_out].numpy()))


def test_few_of_each_class_are_drawn():
    classes = torch.tensor([0] * 9 + [2] * 3 + [-1] * 5)
    drawn = few_of_each(classes, 4, torch.Generator().manual_seed(0))
    assert classes[drawn].tolist() == [0] * 4 + [2] * 3
    assert len(set(drawn.tolist())) == 7
    assert not torch.equal(drawn, few_of_each(classes, 4, torch.Generator().manual_seed(1)))


def test_more_labels_do_better():
    frames, features = blobs(900, spread=1.5)
    scores = [make("low_shot").measure(subject(frames, features), "features", seed) for seed in range(5)]
    means = [np.mean([score[f"accuracy_{count}"] for score in scores]) for count in (1, 2, 5, 10)]
    assert means[0] < means[1] < means[3]
    assert means[3] > means[0] + 0.1


def test_ridge_finds_what_features_hold():
    frames, features = blobs()
    state = torch.stack([features[:, 0] * 2 + features[:, 3], torch.randn(240), torch.ones(240)], 1)
    seen = Frames(
        frames.obs(torch.arange(240)), source="x", episode=frames.episodes, state=state, state_names=["a", "b", "c"]
    )
    found = make("ridge").measure(subject(seen, features), "features", seed=0)
    assert found["r2_a"] > 0.999
    assert found["r2_b"] < 0.1
    assert np.isnan(found["r2_c"])
    assert found["r2"] == pytest.approx((found["r2_a"] + found["r2_b"]) / 2)


def test_dense_finds_what_cells_show():
    frames, features = blobs()
    labels = torch.randint(3, (240, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    shown = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    maps = nn.functional.one_hot(shown.long(), 3).permute(0, 3, 1, 2).float()
    seen = Frames(frames.obs(torch.arange(240)), source="x", episode=frames.episodes, labels=labels)
    assert make("dense").measure(subject(seen, features, maps), "map", seed=0) == {"miou": 1.0}
    noise = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1))
    assert 0.1 < make("dense").measure(subject(seen, features, noise), "map", seed=0)["miou"] < 0.3


def test_cells_are_labelled_by_their_middles():
    labels = torch.arange(36).reshape(1, 6, 6).byte()
    assert of_cells(labels, 2, 3)[0].tolist() == [[7, 9, 11], [25, 27, 29]]
    assert torch.equal(of_cells(labels, 6, 6), labels.long())


def test_mean_iou_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    found, truth = (torch.randint(4, (200,), generator=generator) for _ in range(2))
    assert mean_iou(found, truth) == pytest.approx(jaccard_score(truth.numpy(), found.numpy(), average="macro"))


def test_geometry_tells_directions_and_invariance():
    frames, _ = digits()
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(2, 10, generator=generator)

    def flat(obs: Tensor) -> dict[str, Tensor]:  # two directions, whatever the view
        return {"features": torch.randn(len(obs), 2, generator=torch.Generator().manual_seed(int(obs[0].sum()))) @ way}

    narrow = make("geometry").measure(Subject("flat", flat, frames), "features", 0)
    wide = make("geometry").measure(Subject("pixels", shrunk, frames), "features", 0)
    assert 1 < narrow["rank"] < 2.01
    assert wide["rank"] > 20
    assert wide["view_accuracy"] < 0.6
    assert narrow.keys() == {"rank", "alignment", "uniformity", "view_accuracy"}


def test_an_encoder_is_looked_through_in_eval_mode_and_left_as_it_was():
    torch.manual_seed(0)
    frames, _ = digits()
    encoder = make_encoder(encoder_config("small"), (1, 24, 24))
    assert encoder.training
    seen = Subject("small", look_through(encoder, lambda obs: obs), frames)
    assert seen.layers == ("features", "map")
    ids = torch.arange(300)
    torch.testing.assert_close(seen.of("features")[:300], encoder(frames.obs(ids)).detach())
    torch.testing.assert_close(seen.of("map")[:300], encoder.conv(frames.obs(ids)).detach())
    assert encoder.training


def test_probes_are_those_that_the_frames_can_answer():
    names = {probe.config.name for probe in choose((), {"classes", "order"}, "x")}
    assert names == {"geometry", "linear", "low_shot", "neighbours", "retrieval"}
    assert [probe.config.name for probe in choose(("ridge",), {"states"}, "x")] == ["ridge"]
    with pytest.raises(ConfigError, match="probe dense needs labels, which the folder has not"):
        choose(("dense",), {"classes"}, "the folder")
    with pytest.raises(ConfigError, match="unknown probe 'depth'; there are dense, geometry"):
        choose(("depth",), set(), "x")
