"""Painted flowers: the traits of a species show, and a generator's state is one picture."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flowerkit.sources.painting import (
    CENTRES,
    GROUNDS,
    MARKS,
    Form,
    Species,
    _petal_outline,
    _Pose,
    _project,
    _spiral,
    paint_flower,
)

DAISY = Species(
    name="daisy",
    form=Form("daisy", (13, 21), 1, 0.15, 0.6, 0.35, centre="disc"),
    petals=13,
    colour=(246, 244, 240),
    second_colour=(206, 100, 200),
    mark="plain",
    centre_colour=(236, 190, 40),
    ground="hedge",
)


def paint(kind, seed=0, size=48):
    return paint_flower(kind, size=size, rng=np.random.default_rng(seed)).astype(int)


def test_the_same_state_of_the_generator_is_the_same_picture():
    assert (paint(DAISY) == paint(DAISY)).all()
    assert (paint(DAISY) != paint(DAISY, seed=1)).mean() > 0.9


@pytest.mark.parametrize(
    "changed",
    [
        replace(DAISY, petals=21),
        replace(DAISY, colour=(222, 44, 30)),
        replace(DAISY, mark="eye"),
        replace(DAISY, form=DAISY.form._replace(width=0.3)),
        replace(DAISY, form=DAISY.form._replace(centre="none")),
        replace(DAISY, form=DAISY.form._replace(heads=7)),
        replace(DAISY, ground="sky"),
    ],
    ids=["petals", "colour", "mark", "shape", "centre", "heads", "ground"],
)
def test_every_trait_of_a_species_shows(changed):
    first, second = ([paint(kind, seed) for seed in range(4)] for kind in (DAISY, changed))
    assert np.abs(np.stack(first) - np.stack(second)).mean() > 1


def test_every_marking_centre_and_ground_can_be_painted():
    for mark in MARKS:
        for centre in CENTRES:
            form = DAISY.form._replace(centre=centre, layers=2)
            assert paint(replace(DAISY, mark=mark, form=form), size=16).std() > 5
    for ground in GROUNDS:
        assert paint(replace(DAISY, ground=ground), size=16).std() > 5


def test_a_petal_runs_from_the_origin_to_1_and_is_as_wide_as_its_form_says():
    outline = _petal_outline(DAISY.form)
    assert outline.shape == (24, 2)
    assert outline[0].tolist() == [0.0, 0.0]
    assert outline[11].tolist() == [1.0, 0.0]
    assert outline[:, 1].max() == pytest.approx(0.15, rel=0.02)
    assert outline[:, 1].min() == -outline[:, 1].max()


def test_a_notch_draws_the_tip_back():
    outline = _petal_outline(DAISY.form._replace(notch=0.2))
    assert outline[11].tolist() == [0.8, 0.0]


def test_tilt_foreshortens_and_height_moves_a_point_away_from_the_viewer():
    pose = _Pose(np.array([50.0, 50.0]), 20.0, 0.0, math.radians(60), 0.0)
    points = np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(_project(points, pose), [[70, 50], [50, 60]])
    np.testing.assert_allclose(_project(points[0], pose, 1.0), [70, 50 - 20 * math.sqrt(0.75)])


def test_a_spiral_fills_its_disc():
    reach = np.hypot(*_spiral(40, 2.0).T)
    assert (np.diff(reach) > 0).all()
    np.testing.assert_allclose((reach[0] ** 2, reach[-1] ** 2), (4 * 0.5 / 40, 4 * 39.5 / 40))
