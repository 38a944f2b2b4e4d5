"""The files around the code say what pyproject.toml says, and their examples run."""

import re
import sys
from pathlib import Path

import pytest
import verimargin

ROOT = Path(__file__).resolve().parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_target_that_contributing_names_exists():
    named = set(
        re.findall(
            r"make(?: \w+=\S+)* ([a-z][a-z-]*)", "".join(re.findall(r"`[^`]+`|^    .*$", text("CONTRIBUTING.md"), re.M))
        )
    )
    assert "test-core" in named
    assert named <= set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))


def test_the_hook_and_the_environment_have_one_ruff():
    wanted = re.search(r"ruff==([\d.]+)", text("pyproject.toml"))[1]
    assert re.search(r"ruff-pre-commit\n    rev: v([\d.]+)", text(".pre-commit-config.yaml"))[1] == wanted


def test_the_workflow_tests_the_oldest_releases_that_are_claimed():
    claimed = re.search(r'dependencies = \["torch>=([\d.]+)", "numpy>=([\d.]+)"\]', text("pyproject.toml")).groups()
    for package, oldest in zip(("torch", "numpy"), claimed):
        assert f"{package}: {package}=={oldest}.0\n" in text(".github/workflows/ci.yml")


def test_the_workflow_is_yaml_whose_targets_exist():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    assert {"lint", "test", "core", "docs", "build"} <= set(jobs)
    for job in jobs.values():
        for step in job["steps"]:
            for target in re.findall(r"^make ([a-z-]+)", step.get("run", "")):
                assert re.search(rf"^{target}:", text("Makefile"), flags=re.MULTILINE), target


def test_the_issue_forms_are_yaml_that_asks_for_the_environment():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    forms = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert set(forms) == {"bug_report.yml", "config.yml", "feature_request.yml"}
    asked = {field["id"] for field in forms["bug_report.yml"]["body"]}
    assert asked == {"what-happened", "expected", "command", "toolkit", "recipe", "env"}
    assert "verimargin env" in text(".github/ISSUE_TEMPLATE/bug_report.yml")


def test_the_citation_has_the_version_and_the_papers():
    citation = text("CITATION.cff")
    assert f"\nversion: {verimargin.__version__}\n" in citation
    for paper in ("arXiv:2606.31664", "10.1109/ACCESS.2023.3338648", "arXiv:2103.01559"):
        assert paper in citation


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is in Python 3.11 and newer")
def test_the_links_are_the_projects():
    import tomllib

    urls = tomllib.loads(text("pyproject.toml"))["project"]["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    assert all(
        url.startswith(("https://github.com/verimargin/", "https://verimargin.github.io/")) for url in urls.values()
    )
