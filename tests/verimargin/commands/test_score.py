import csv
import subprocess
import sys

import numpy as np
import pytest
import reference
import small_trials
import torch
import verimargin as vm
from small_trials import run
from verimargin.commands import report
from verimargin.commands.score import score
from verimargin.commands.sweep import sweep
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings
from verimargin.files.scorers import write_regressor
from verimargin.files.trials import count_lines
from verimargin.metrics import DetCurve

SPEAKERS, UTTERANCES = 12, 4


@pytest.fixture
def task(tmp_path):
    """Embeddings, a VoxCeleb list of all their pairs, impostors and distractors."""
    draw = torch.Generator().manual_seed(0)
    voices = torch.randn(SPEAKERS, 1, 6, generator=draw)
    rows = (voices + 0.8 * torch.randn(SPEAKERS, UTTERANCES, 6, generator=draw)).reshape(-1, 6)
    ids = [f"id{k // UTTERANCES}/a/{k % UTTERANCES}" for k in range(len(rows))]
    write_embeddings(tmp_path / "embeddings.npz", Embeddings([*ids, "unused"], torch.cat([rows, rows[:1]])))
    for name, size in (("cohort", 30), ("distractors", 25)):
        others = torch.randn(size, 6, generator=draw)
        write_embeddings(tmp_path / f"{name}.npz", Embeddings([f"{name}{k}" for k in range(size)], others))
    pairs = [(a, b) for a in range(len(ids)) for b in range(a)]
    lines = [f"{a // UTTERANCES == b // UTTERANCES:d} {ids[a]}.wav {ids[b]}.wav\n" for a, b in pairs]
    (tmp_path / "trials.txt").write_text("".join(lines))
    return tmp_path, rows.double().numpy(), np.array(pairs)


def given(folder):
    return folder / "embeddings.npz", folder / "trials.txt", folder / "out"


def test_scores_figures_and_files_of_each_method(task):
    folder, rows, pairs = task
    regressor = vm.SupportSetRegressor(6, hidden=4, k=5, tau=2.0)
    f = torch.from_numpy(rows).float()
    regressor.fit(f, vm.IDAScorer(f, k=5, tau=2.0).density(f), epochs=2)
    write_regressor(folder / "regressor.pt", regressor)
    others = ("--cohort", "--anchors", "--distractors", "--regressor")
    files = [folder / name for name in ("cohort.npz", "cohort.npz", "distractors.npz", "regressor.pt")]
    options = [part for pair in zip(others, files) for part in pair]
    result = run(score, *given(folder), *options, "--cohort-size", 9, "--k", 5, "--tau", 2)
    out, cohort = folder / "out", np.load(folder / "cohort.npz")["embeddings"]
    with np.load(out / "scores.npz") as saved:
        scores = {name: saved[name] for name in ("cosine", "s-norm", "adaptive-s-norm", "ida-r", "ida-l")}
        same = saved["same"]
        assert [saved["ids"][saved["enrol"][7]], saved["ids"][saved["test"][7]]] == ["id1/a/0", "id0/a/1"]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    a, b = pairs.T
    np.testing.assert_allclose(scores["cosine"], (unit[a] * unit[b]).sum(1), atol=1e-5)
    scorer = vm.IDAScorer(torch.from_numpy(cohort).double(), k=5, tau=2.0)
    expected = scorer.score_pairs(torch.from_numpy(rows), *torch.from_numpy(pairs.T)).log()
    np.testing.assert_allclose(scores["ida-r"], expected, atol=1e-5)
    expected = regressor.score_pairs(f, *torch.from_numpy(pairs.T), log=True)
    np.testing.assert_allclose(scores["ida-l"], expected, atol=1e-5)
    for name, size in (("s-norm", None), ("adaptive-s-norm", 9)):
        expected = [reference.score_norm(rows[a], rows[b], cohort, "s-norm", size) for a, b in pairs[::37]]
        np.testing.assert_allclose(scores[name][::37], expected, rtol=1e-5, atol=1e-5)

    with open(out / "table.csv", newline="") as file:
        table = {(r["method"], r["figure"]): r for r in csv.DictReader(file)}
    value = table["adaptive s-norm (9)", "TAR % at FAR 1e-2"]
    s = scores["adaptive-s-norm"]
    assert float(value["value"]) == pytest.approx(100 * vm.metrics.tar_at_far(s[same], s[~same], far=1e-2)[0], rel=1e-5)
    assert float(value["low"]) <= float(value["value"]) <= float(value["high"])
    assert len(table) == 5 * 5  # EER, minDCF, TAR at 1e-1..1e-3 of 1,056 non-target trials
    text = (out / "scores_ida-r.txt").read_text().splitlines()
    assert text[7] == f"id1/a/0 id0/a/1 0 {scores['ida-r'][7]:f}"
    assert (out / "report.md").read_text().count("| - | - | - |") == 5
    assert "72 target and 1,056 non-target trials" in result.output
    for name in ("det", "distributions", "identification"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "identification.csv").read_text().splitlines()) == 1 + 5
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"out"}


def test_pairs_put_right_and_wrong(task):
    folder, _, pairs = task
    run(
        score, *given(folder), "--cohort", folder / "cohort.npz", "--cohort-size", 9, "--no-intervals", "--at-far", 0.05
    )
    with np.load(folder / "out" / "scores.npz") as saved:
        s, cosine, same, ids = saved["s-norm"], saved["cosine"], saved["same"], saved["ids"]
    right, wrong = [], []
    thresholds = [vm.metrics.tar_at_far(of[same], of[~same], far=0.05)[1] for of in (s, cosine)]
    for t in range(len(same)):
        by_norm, by_cosine = (bool(of[t] > threshold) == same[t] for of, threshold in zip((s, cosine), thresholds))
        if by_norm != by_cosine:
            (right if by_norm else wrong).append((ids[pairs[t, 0]], ids[pairs[t, 1]]))
    with open(folder / "out" / "changes.csv", newline="") as file:
        changes = [r for r in csv.DictReader(file) if r["method"] == "s-norm"]
    assert right
    assert wrong
    assert [(r["enrol"], r["test"]) for r in changes if r["put"] == "right"] == right
    assert [(r["enrol"], r["test"]) for r in changes if r["put"] == "wrong"] == wrong


@pytest.mark.parametrize(("setting", "values"), [("k", [2, 30]), ("anchors", [10, 30]), ("tau", [0.5, 200])])
def test_a_setting_is_varied(task, setting, values):
    folder, rows, pairs = task
    run(
        sweep,
        *given(folder)[:2],
        setting,
        *values,
        given(folder)[2],
        "--anchors",
        folder / "cohort.npz",
        "--no-intervals",
    )
    table: dict[str, dict[str, float]] = {}
    with open(folder / "out" / "table.csv", newline="") as file:
        for r in csv.DictReader(file):
            table.setdefault(r["method"], {})[r["figure"]] = float(r["value"])
    assert list(table) == ["cosine", *(f"{setting} {value}" for value in values)]
    assert len({tuple(row.values()) for row in table.values()}) == 3
    anchors = torch.from_numpy(np.load(folder / "cohort.npz")["embeddings"])
    same = pairs[:, 0] // UTTERANCES == pairs[:, 1] // UTTERANCES
    for value in values[setting == "anchors" :]:  # the last number of anchors is all; fewer are drawn
        scorer = vm.IDAScorer(anchors, **({} if setting == "anchors" else {setting: value}))
        s = scorer.score_pairs(torch.from_numpy(rows).float(), *torch.from_numpy(pairs.T), log=True)
        row = table[f"{setting} {value}"]
        assert row["EER %"] == pytest.approx(100 * vm.metrics.eer(s[same], s[~same])[0], rel=1e-5)
        assert row["minDCF x 100"] == pytest.approx(100 * vm.metrics.min_dcf(s[same], s[~same])[0], rel=1e-5)
    assert (folder / "out" / "sweep.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cohort", "cohort.npz", "--cohort-size", 31], "cohort_size is 31, of 30 impostors"),
        (["--anchors", "cohort.npz", "--k", 31], "k is 31, but there are 30 anchors"),
        (["--anchors", "cohort.npz", "--tau", 0], r"tau is 0\.0"),
        (["--anchors", "other.npz"], r"vectors in other\.npz have 5 numbers, the embeddings 6"),
        (
            ["--anchors", "foreign.npz"],
            r"foreign\.npz .* with the encoder beef, but the embeddings with cafe",
        ),
        (["--cohort", "other.npz", "--cohort-size", 2], "the vectors in other.npz have 5 numbers, the embeddings 6"),
        (
            ["--regressor", "foreign.pt"],
            r"foreign\.pt .* with the encoder beef, but the embeddings with cafe",
        ),
        (["--distractors", "embeddings.npz"], r"share embeddings \(49, such as id0/a/0"),
    ],
)
def test_what_does_not_fit_is_named_and_leaves_nothing(task, options, message, monkeypatch):
    folder, _, _ = task
    write_embeddings(folder / "other.npz", Embeddings(["a", "b", "c"], torch.randn(3, 5)))
    with np.load(folder / "embeddings.npz") as held:
        arrays = dict(held)
    np.savez(folder / "embeddings.npz", **{**arrays, "encoder": "cafe"})
    np.savez(folder / "foreign.npz", **{**arrays, "encoder": "beef"})
    regressor = vm.SupportSetRegressor(6, hidden=4)
    regressor.fit(torch.randn(5, 6), torch.ones(5), epochs=1)
    write_regressor(folder / "foreign.pt", regressor, "beef")
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=message):
        run(score, *given(folder), *options, *(["--k", 2] if options[:2] == ["--anchors", "other.npz"] else []))
    assert not [p for p in folder.iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("setting", "values", "message"),
    [
        ("anchors", [5, 31], "31 anchors were asked for, but .* has 30: give 1..30"),
        ("k", [1, 31], "k is 31"),
        ("k", [1, 2.5], "the values of k are 1, 2.5: give integers"),
        ("tau", [1, 0], r"tau is 0\.0"),
    ],
)
def test_values_are_checked_before_any_is_scored(task, setting, values, message):
    folder, _, _ = task
    embeddings, trials, out = given(folder)
    given_k = [] if setting == "k" else ["--k", 5]
    with pytest.raises(ValueError, match=message):
        run(sweep, embeddings, trials, setting, *values, out, "--anchors", folder / "cohort.npz", *given_k)
    assert not [p for p in folder.iterdir() if p.is_dir()]


def test_results_are_not_overwritten(task):
    folder, _, _ = task
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="exists already: move it"):
        run(score, *given(folder))
    (folder / "out" / "mine.txt").unlink()
    run(score, *given(folder), "--no-intervals")  # an empty folder is no result
    assert (folder / "out" / "report.md").exists()


def test_templates_of_an_ijb_protocol(tmp_path):
    """Numbers for names: identities by target trials, no text files; the embeddings of images are pooled."""
    meta = tmp_path / "meta"
    meta.mkdir()
    rows = np.random.default_rng(0).normal(size=(12, 5))
    rows[1::2] = rows[::2] + 0.1 * rows[1::2]  # templates 2t and 2t + 1 are of one identity
    media = [f"{image}.jpg {image // 2} {image}\n" for image in range(24)]
    (meta / "ijbc_face_tid_mid.txt").write_text("".join(media))
    (meta / "ijbc_name_5pts_score.txt").write_text("".join(f"{i}.jpg {'1 ' * 10}0.5\n" for i in range(24)))
    pairs = [f"{a} {b} {a // 2 == b // 2:d}\n" for a in range(12) for b in range(a)]
    (meta / "ijbc_template_pair_label.txt").write_text("".join(pairs))
    np.savez(tmp_path / "result.npz", embs=np.repeat(rows, 2, 0), embs_f=np.repeat(rows, 2, 0))
    run(score, tmp_path / "result.npz", meta / "ijbc_template_pair_label.txt", tmp_path / "out")
    with np.load(tmp_path / "out" / "scores.npz") as saved:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        place = saved["ids"].astype(int)
        expected = (unit[place[saved["enrol"]]] * unit[place[saved["test"]]]).sum(1)
        np.testing.assert_allclose(saved["cosine"], expected, atol=1e-6)
    assert "the 6 identities" in (tmp_path / "out" / "report.md").read_text()
    assert not list((tmp_path / "out").glob("*.txt"))


def test_only_the_false_accept_rates_that_trials_resolve():
    resolved = [name for name, metric in report.columns(10_000).items() if metric]
    assert resolved == ["EER %", "minDCF x 100", *(f"TAR % at FAR 1e-{n}" for n in range(1, 5))]
    assert report.columns(9_999)["TAR % at FAR 1e-4"] is None


def test_intervals_are_those_of_each_metric_alone():
    random = np.random.default_rng(0)
    a, b = random.integers(8, size=(2, 400))
    s, same = random.normal(size=400) + (a == b), a == b
    together = vm.metrics.confidence_intervals({"EER": DetCurve.eer, "DCF": DetCurve.min_dcf}, s, same, a, b)
    for name, metric in (("EER", vm.metrics.eer), ("DCF", vm.metrics.min_dcf)):
        assert together[name] == vm.metrics.confidence_interval(metric, s, same, a, b)


def test_a_small_cohort_is_taken_whole_unless_a_size_is_asked_for(task):
    folder, _, _ = task
    result = run(score, *given(folder), "--cohort", folder / "cohort.npz", "--no-intervals")
    assert "adaptive s-norm (30)" in (folder / "out" / "report.md").read_text()
    for text in (result.output, (folder / "out" / "report.md").read_text()):
        assert "takes 30 impostors, and cohort.npz has no more: it is the same as s-norm" in " ".join(text.split())


def test_swapped_labels_are_told(task):
    """Where ids have no folders, nothing but the error rate tells."""
    folder, _, _ = task
    with np.load(folder / "embeddings.npz") as held:
        renamed = [name.replace("/", "-") for name in held["ids"]]
        np.savez(folder / "embeddings.npz", ids=renamed, embeddings=held["embeddings"])
    pairs = [("0", f"id{n}-a-0", f"id{n}-a-1") for n in range(SPEAKERS)]
    pairs += [("1", f"id{n}-a-2", f"id{n + 1}-a-3") for n in range(0, SPEAKERS, 2)]
    (folder / "trials.txt").write_text("".join(" ".join(pair) + "\n" for pair in pairs))
    result = run(score, *given(folder), "--no-intervals")
    for text in (result.output, (folder / "out" / "report.md").read_text()):
        assert "The EER is above 50 % (cosine " in " ".join(text.split())
        assert "the labels are swapped" in " ".join(text.split())


def test_embeddings_that_float32_cannot_tell_apart_are_reported(task):
    """After one epoch of a small model the toolkit's float64 gave an EER of 6 %, and this one 50 % without a word."""
    folder, _, _ = task
    with np.load(folder / "embeddings.npz") as held:
        ids = held["ids"]
    close = 1 + 1e-5 * np.random.default_rng(0).normal(size=(len(ids), 6))
    np.savez(folder / "embeddings.npz", ids=ids, embeddings=close)
    result = run(score, *given(folder), "--no-intervals")
    for text in (result.output, (folder / "out" / "report.md").read_text()):
        assert "the encoder has collapsed" in " ".join(text.split())


def test_too_little_memory_is_refused_before_anything_is_read(task):
    folder, _, _ = task
    embeddings, trials, out = given(folder)
    embeddings.write_text("not read")
    for command, varied in ((score, []), (sweep, ["k", 5])):
        with pytest.raises(ValueError, match=r"--max-memory is 90MiB, but 1,128 trials and \d methods need about"):
            run(command, embeddings, trials, *varied, out, "--anchors", folder / "cohort.npz", "--max-memory", "90MiB")
    assert not out.exists()


def test_small_blocks_give_the_same_scores(task, monkeypatch):
    folder, _, _ = task
    options = ["--cohort", folder / "cohort.npz", "--no-intervals"]
    run(score, *given(folder), *options)
    monkeypatch.setattr("verimargin.commands.memory.SMALLEST_BLOCK", 2**12)
    monkeypatch.setattr("verimargin.commands.memory.BLOCK", 2**12)
    run(score, *given(folder)[:2], folder / "blocks", *options, "--max-memory", 9)
    with np.load(folder / "out" / "scores.npz") as whole, np.load(folder / "blocks" / "scores.npz") as blocks:
        for name in ("cosine", "s-norm", "adaptive-s-norm"):
            np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-4, atol=1e-5)


@pytest.fixture
def two_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(small_trials.make(tmp_path))
    return tmp_path


def test_thresholds_of_a_development_list(two_lists):
    chosen = ["--cohort", "cohort.npz", "--dev", "dev.txt", "--far", 0.1, "--far", 0.01]
    result = run(score, "e.npz", "trials.txt", "out", *chosen)
    run(score, "e.npz", "dev.txt", "on_dev", "--cohort", "cohort.npz", "--no-intervals")
    with open("out/thresholds.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[:2] for row in rows[:2]] == [["cosine", "0.1"], ["cosine", "0.01"]]
    assert len(rows) == 3 * 2
    with np.load("on_dev/scores.npz") as dev, np.load("out/scores.npz") as judged:
        for row, name in zip(rows[::2], ("cosine", "s-norm", "adaptive-s-norm")):
            threshold = vm.metrics.tar_at_far(dev[name][dev["same"]], dev[name][~dev["same"]], far=0.1)[1]
            assert float(row[2]) == threshold
            assert float(row[3]) <= threshold <= float(row[4])
            assert float(row[5]) == (judged[name][~judged["same"]] > threshold).mean()
            assert float(row[8]) == (judged[name][judged["same"]] <= threshold).mean()
    assert "Thresholds found on dev.txt" in (two_lists / "out" / "report.md").read_text()
    assert "| cosine | 0.01 |" in result.output
    assert "share" not in result.output


def test_tau_is_chosen_on_a_development_list(two_lists):
    result = run(score, "e.npz", "trials.txt", "out", "--anchors", "cohort.npz", "--tau", "auto", "--dev", "dev.txt")
    assert " has the lowest EER on dev.txt" in result.output
    text = (two_lists / "out" / "report.md").read_text()
    tau = float(text.split(" has the lowest EER on dev.txt")[0].rpartition("tau ")[2])
    assert f"| IDA-R (k 10, tau {tau:g}) |" in text
    run(score, "e.npz", "trials.txt", "with_it", "--anchors", "cohort.npz", "--tau", tau, "--no-intervals")
    with np.load("out/scores.npz") as chosen, np.load("with_it/scores.npz") as given_tau:
        np.testing.assert_array_equal(chosen["ida-r"], given_tau["ida-r"])


def test_identities_in_both_lists_are_named(two_lists):
    ids = [f"{name}/{n}" for name in ("j0", "j1", "d0", "d1", "d2") for n in range(4)]
    small_trials.write_list(two_lists / "mixed.txt", ids)
    small_trials.write_list(two_lists / "trials.txt", [f"j{n}/4" for n in range(9)] + ["j3/0"])
    result = run(score, "e.npz", "trials.txt", "out", "--dev", "mixed.txt", "--far", 0.1, "--no-intervals")
    for text in (result.output, (two_lists / "out" / "report.md").read_text()):
        assert "mixed.txt and trials.txt share identities (2, such as j0)" in " ".join(text.split())


def test_tested_identities_among_impostors_and_samples_compared_with_themselves_are_told(two_lists):
    given = read_embeddings("e.npz")
    write_embeddings("others.npz", Embeddings(["j3/new", *(f"x{n}/0" for n in range(9))], -given.vectors[:10]))
    (two_lists / "trials.txt").write_text((two_lists / "trials.txt").read_text() + "1 j0/1 j0/1\n")
    for option in ("--cohort", "--distractors"):
        result = run(score, "e.npz", "trials.txt", f"out{option}", option, "others.npz", "--no-intervals")
        for text in (result.output, (two_lists / f"out{option}" / "report.md").read_text()):
            words = " ".join(text.split())
            assert "others.npz has embeddings of identities of the trials (1, such as j3), who are" in words
            assert "Trials (1, such as that of j0/1) compare a sample with itself: leave them out." in words
    result = run(score, "e.npz", "dev.txt", "strangers", "--cohort", "others.npz", "--no-intervals")
    assert "identities of the trials" not in result.output


MEASURED = """
import sys
from pathlib import Path
from verimargin.commands.memory import _resident
from verimargin.commands.score import score
embeddings, trials, out, cohort = map(Path, sys.argv[1:5])
limit = _resident() // 2**20 + 1500  # the libraries take 0.5 GiB on one machine, and 0.7 on another
score(embeddings, trials, out, cohort=cohort, max_memory=f"{limit}MiB")
print(limit, next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_ten_million_trials_in_the_memory_that_is_allowed(tmp_path):
    """With one method more the peak was 2.0 GiB, and nothing bounded it."""
    random = np.random.default_rng(0)
    ids = [f"id{10_000 + k % 50}/{k:011d}/{k:05d}" for k in range(5000)]
    voices = random.normal(size=(50, 192))[np.arange(5000) % 50] + 2 * random.normal(size=(5000, 192))
    write_embeddings(tmp_path / "e.npz", Embeddings(ids, torch.from_numpy(voices).float()))
    write_embeddings(tmp_path / "c.npz", Embeddings([f"c{k}" for k in range(500)], torch.randn(500, 192)))
    with open(tmp_path / "t.txt", "w") as file:
        enrol, test = np.triu_indices(5000, 1)
        listed = random.permutation(len(enrol))[: 10**7]
        for part in np.array_split(listed, 100):
            sides = enrol[part].tolist(), test[part].tolist()
            file.writelines(f"{a % 50 == b % 50:d} {ids[a]}.wav {ids[b]}.wav\n" for a, b in zip(*sides))
    files = [tmp_path / name for name in ("e.npz", "t.txt", "out", "c.npz")]
    done = subprocess.run([sys.executable, "-c", MEASURED, *files], capture_output=True, text=True, check=True)
    limit, _, peak, _ = done.stdout.split()[-4:]  # <MiB> VmHWM: <KiB> kB
    assert int(peak) < int(limit) * 1024
    assert count_lines(tmp_path / "out" / "scores_s-norm.txt") == 10**7
