from verimargin_insightface.run_log import read_settings

LOG = """Training: 2026-01-01 10:00:00,123-rank_id: 0
Training: 2026-01-01 10:00:00,123-: network                  {network}
Training: 2026-01-01 10:00:00,123-: rec                      /data/my faces/train: 2
Training: 2026-01-01 10:00:00,123-: interclass_filtering_threshold0
Training: 2026-01-01 10:00:00,123-Speed 3 samples/sec   Loss 0.5   Epoch: 3   Global Step: 5
"""


def test_settings_are_those_of_the_last_start(tmp_path):
    (tmp_path / "training.log").write_text(LOG.format(network="r50") + LOG.format(network="r100"))
    assert read_settings(tmp_path) == {"network": "r100", "rec": "/data/my faces/train: 2"}


def test_without_a_log_there_are_none(tmp_path):
    assert read_settings(tmp_path) == {}
