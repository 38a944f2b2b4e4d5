import re

import pytest
import typer
from typer.testing import CliRunner
from verimargin.commands.plan import plan
from verimargin.head import device_speed
from verimargin.head.roofline import Speed


def run(*arguments):
    app = typer.Typer()
    app.command()(plan)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})


def figures(output):
    """The number of each row of the tables by its name."""
    return {
        name.strip(): float(value.replace(",", "")) for name, value in re.findall(r"│ (.+?) │ +([\d.,]+) │", output)
    }


def test_two_million_classes_on_eight_gpus():
    result = run("--classes", "2e6", "--ranks", "8", "--batch", "128", "--size", "512", "--loss", "q_margin")
    assert result.exit_code == 0, result.output
    found = figures(result.output)
    for name in ("prototypes", "their gradient", "momentum of SGD", "working memory of SGD"):
        assert found[name] == 488.3, "250,000 x 512 x 4 bytes"
    assert found["float16 copy of the prototypes"] == 244.1
    assert found["at the peak"] == 1953.1
    assert found["product: candidates"] == pytest.approx(1e3 * 2 * 1024 * 250_000 * 512 / 989.4e12 + 0.005, abs=1e-3)
    assert found["SGD"] == pytest.approx(1e3 * 11 * 512e6 / 3.35e12, rel=0.02)
    assert "H100 SXM, the vendor's peak figures" in " ".join(result.output.split())


def test_the_parts_of_a_step_add_up():
    found = figures(run("--classes", "1e5", "--loss", "arcface", "--device", "a100").output)
    head = ("prototypes normalised", "product", "logits and softmax", "gradient of the logits", "products backward")
    total = sum(found[name] for name in (*head, "gradient through the norms"))
    assert found["the head"] == pytest.approx(total, abs=4e-3)


def words(*arguments):
    return " ".join(run("--classes", "1e5", *arguments).output.split())


def test_the_start_of_a_training_is_told():
    """420 of 100,000 classes are expected to be active with fresh prototypes (test_fresh), and all near alpha 1."""
    assert "with alpha 1.25 and scale 32 and fresh prototypes, 0.42 % are active: the head then works with" in words()
    text = words("--alpha", "1.02")
    assert "with alpha 1.02 and scale 32 and fresh prototypes, 100 % are active:" in text
    told = float(re.search(r"works with up to ([\d,.]+) MiB", text)[1].replace(",", ""))
    assert told > 140 * 128 * 1e5 / 2**20, "140 bytes for each pair"


def test_the_active_share_is_that_of_the_user():
    few, many = (figures(run("--classes", "1e5", "--active", share).output) for share in ("0.0005", "0.05"))
    assert many["working memory of the head"] - few["working memory of the head"] == pytest.approx(
        280 * 128 * 0.0495 * 1e5 / 2**20, abs=0.1
    )


def test_subcenters_take_more_prototypes_of_which_as_many_are_active():
    one, three = (figures(run("--classes", "1e5", "--subcenters", number).output) for number in ("1", "3"))
    assert three["prototypes"] == pytest.approx(3 * one["prototypes"], abs=0.2)
    assert three["candidates in float32"] == one["candidates in float32"]
    assert "so a head with sub-centres does without them" in words("--subcenters", "3")
    assert "sub-centres" not in words()


def test_the_screening_that_is_planned_is_named():
    assert "Screened in float16, by fused kernels, as with screening auto; other choices are not planned" in words()
    assert "Screened" not in words("--loss", "arcface")


def test_sampling_takes_less_of_everything():
    everything, sampled = (
        figures(run("--classes", "1e6", "--loss", "arcface", *more).output) for more in ((), ("--sample-rate", "0.1"))
    )
    assert sampled["products backward"] == pytest.approx(0.1 * everything["products backward"], rel=0.1)
    assert sampled["working memory of the head"] < 0.2 * everything["working memory of the head"]
    assert sampled["SGD"] == everything["SGD"], "its momentum is dense"


def test_this_cpu_is_measured(monkeypatch):
    speed = Speed("this CPU", "measured now", float32=1e9, float16=1e9, int8=0.0, bandwidth=1e9, start=0.0)
    monkeypatch.setattr("verimargin.commands.plan.measured_cpu", lambda samples, size: speed)
    result = run("--classes", "1000", "--ranks", "2", "--batch", "4", "--size", "100", "--device", "cpu")
    found = figures(result.output)
    assert found["product"] == 0.8, "2 x 8 x 500 x 100 operations at 1 GFLOP/s"
    assert found["norms of the prototypes"] == 0.4
    assert "measured now" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "0"), "--classes is 0: give an integer"),
        (("--classes", "2.5"), "--classes is 2.5: give an integer"),
        (("--classes", "nan"), "--classes is nan: give an integer"),
        (("--classes", "10", "--batch", "-1"), "--batch is -1: give an integer"),
        (("--classes", "10", "--size", "0.1"), "--size is 0.1: give an integer"),
        (("--classes", "3", "--ranks", "8"), "there are 3 classes on 8 ranks: give each rank at least one"),
        (("--classes", "10", "--alpha", "1"), "--alpha is 1: give a number above 1, at most 8; at 1 the head is dense"),
        (("--classes", "10", "--active", "0"), "--active is 0"),
        (("--classes", "10", "--subcenters", "0"), "--subcenters is 0: give an integer"),
        (("--classes", "10", "--loss", "arcface", "--subcenters", "3"), "PartialFC_V2 has one prototype per class"),
        (("--classes", "10", "--loss", "arcface", "--alpha", "1.5"), "--alpha is 1.5, but only q_margin has it"),
        (("--classes", "10", "--loss", "arcface", "--scale", "32"), "--scale is 32, but only q_margin has it"),
        (("--classes", "10", "--loss", "arcface", "--active", "0.1"), "--active is 0.1, but only q_margin has it"),
        (("--classes", "10", "--sample-rate", "0.1"), "--sample-rate is 0.1, but q_margin takes all classes"),
        (("--classes", "10", "--loss", "arcface", "--sample-rate", "2"), "sample_rate is 2"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    result = run(*arguments)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--classes", "10", "--device", "b200"), "b200"),
        (("--classes", "many"), "--classes"),
        (("--classes", "10", "--loss", "softmax"), "softmax"),
        ((), "--classes"),
    ],
)
def test_what_there_is_not_is_named(arguments, named):
    result = run(*arguments)
    assert result.exit_code == 2
    assert named in re.sub(r"\x1b\[[\d;]*m", "", result.output)


def test_the_largest_speeds_are_those_of_the_newer_gpu():
    h100, a100 = (figures(run("--classes", "1e6", "--device", name).output)["the head"] for name in device_speed.GPUS)
    assert h100 < a100
