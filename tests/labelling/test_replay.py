"""A person who labels with suggestions, as ``benchmarks/labelling.py replay`` counts."""

from label_replay import Hand, Named

LEFT, RIGHT, FAR = (0, 0, 40, 40), (60, 50, 100, 100), (200, 200, 240, 240)
THINGS = [Named(LEFT, "cat"), Named(RIGHT, "dog")]


def label(found, things=THINGS, **options) -> Hand:
    hand = Hand(0.5, **options)
    hand.label(things, found)
    return hand


def test_without_suggestions_all_is_drawn_and_named() -> None:
    hand = label([])
    assert (hand.keys, hand.plain_keys, hand.actions, hand.boxes) == (4, 4, 2, 2)
    assert hand.kinds["draw"] == 2
    hand.label([Named(FAR, "dog")], [])
    assert (hand.keys, hand.plain_keys) == (5, 5)  # of the last box's class: no key


def test_suggestions_that_are_right_take_one_key_together() -> None:
    hand = label([Named(LEFT, "cat", 0.9, 0.9), Named(RIGHT, "dog", 0.8, 0.8)])
    assert (hand.keys, hand.actions, hand.right) == (1, 1, 1)


def test_a_class_key_corrects_one_after_the_other() -> None:
    hand = label([Named(LEFT, "dog", 0.4, 0.9), Named(RIGHT, "dog", 0.8, 0.8)])
    assert hand.keys == 2
    assert hand.kinds == {"draw": 0, "accept": 1, "correct": 1, "move": 0, "reject": 0}
    assert hand.right == 0


def test_what_is_below_the_slider_still_names_a_drawn_box() -> None:
    found = [Named(LEFT, "cat", 0.1, 0.2), Named(RIGHT, "cat", 0.1, 0.2)]
    assert label(found).keys == 3  # drag, drag and a key
    assert label(found, guesses=False).keys == 4


def test_wrong_suggestions_are_left_alone_where_that_is_less() -> None:
    wrong = [Named((x, 300, x + 20, 320), "cat", 0.9, 0.9) for x in range(0, 300, 30)]
    assert label(wrong).keys == 4
    right = [Named(thing.box, thing.name, 0.9, 0.9) for thing in THINGS]
    assert label([Named(FAR, "cat", 0.6, 0.6), *right]).keys == 2


def test_of_two_at_one_place_the_surer_is_shown() -> None:
    hand = label([Named(LEFT, "dog", 0.6, 0.6), Named(LEFT, "cat", 0.9, 0.9)], THINGS[:1])
    assert (hand.keys, hand.kinds["reject"]) == (1, 0)


def test_a_sheet_takes_one_key_and_a_click_for_each_that_is_wrong() -> None:
    right, wrong = (THINGS[:1], [Named(LEFT, "cat", 0.9, 0.9)]), (THINGS[:1], [])
    hand = Hand(0.5)
    assert hand.look_through([right, right, wrong])
    hand.label_sheet([right, right, wrong])
    assert (hand.keys, hand.right) == (1 + 1 + 1 + 2, 2)  # opened, accepted, clicked, drawn, named
    assert (hand.actions, hand.boxes) == (1 + 1 + 1, 3)
    closed = Hand(0.5)
    assert not closed.look_through([right, wrong, wrong])
    assert (closed.keys, closed.actions, closed.boxes) == (2, 1, 0)  # opened and closed
