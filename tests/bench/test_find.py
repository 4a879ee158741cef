from bench.find import scores


def test_recall_and_precision_are_means_over_clips():
    expected = [{"1:1"}, {"2:1", "2:2"}, {"3:1"}]
    found = [{"1:1"}, {"2:2", "2:3"}, set()]
    assert scores(expected, found) == {"recall": 0.5, "precision": 0.5, "exact": 1 / 3}
