import numpy as np
from verimargin_insightface.drawn_faces.people import SHAPE, STYLES, person


def test_a_person_is_a_function_of_seed_and_number():
    a, again, other, elsewhere = person(1, 5), person(1, 5), person(1, 6), person(2, 5)
    assert a.shape == again.shape
    assert (a.skin == again.skin).all()
    assert (a.style, a.beard, a.wears_glasses) == (again.style, again.beard, again.wears_glasses)
    assert a.shape != other.shape
    assert a.shape != elsewhere.shape


def test_people_differ_as_the_table_says():
    people = [person(0, n) for n in range(600)]
    for name, (mean, std) in SHAPE.items():
        values = np.array([who.shape[name] for who in people])
        assert abs(values.mean() - mean) < 0.2 * std
        assert 0.85 * std < values.std() < 1.1 * std
    assert {who.style for who in people} == set(STYLES)
    assert not any(who.beard != "none" for who in people if who.style == "long")
    assert 0.12 < np.mean([who.wears_glasses for who in people]) < 0.28
