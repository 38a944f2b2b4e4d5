import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from verimargin import metrics
from verimargin.commands import page, plots, report
from verimargin.commands.page import Report, Sample, Samples, code, literal

NASTY = "<script>alert(1)</script> a|b & 'c' \"d\" [x](y) _e_"
VOID = {"meta", "link", "img", "br"}


class Elements(HTMLParser):
    """The elements of a page; fails where they are not nested."""

    def __init__(self, html):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for found, attributes in self.found if found == tag]


@pytest.fixture
def written(tmp_path):
    """The folder of a report with every kind of part."""
    draw = np.random.default_rng(0)
    same = np.arange(2000) % 5 == 0
    scores = {f"method {n}": draw.normal(size=2000) + 2 * same for n in range(4)}
    curves = {name: metrics.det_curve(s[same], s[~same]) for name, s in scores.items()}
    plots.det(tmp_path / "det.png", curves, NASTY)
    plots.distributions(tmp_path / "distributions.png", scores, same)
    shutil.copy(tmp_path / "det.png", tmp_path / "photo.png")
    value = report.Value(12.3, metrics.Interval(10.0, 15.0))
    figures = {NASTY: dict.fromkeys(report.columns(1000), value)}
    parts = [
        "",
        report.write_table(tmp_path, figures, "A note with <b>HTML</b>."),
        "## Curves\n\n![DET](det.png)\n\n![Scores](distributions.png)\n![Faces](photo.png)",
        report.markdown(["name", "wrong"], [[literal(NASTY), "5 %"]]),
        Samples(
            [Sample(NASTY, b"RIFF", "audio/wav"), Sample("a face", (tmp_path / "det.png").read_bytes(), "image/png")]
        ),
        code("-compute_cost: old\n+compute_cost: <new>\n unchanged" + 40 * " long", "diff"),
    ]
    Report(NASTY, parts).write(tmp_path)
    return tmp_path


def test_the_page_is_nested_and_refers_to_nothing_outside(written):
    html = (written / "report.html").read_text(encoding="utf-8")
    elements = Elements(html)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10
    links = [a.get(key) for _, a in elements.found for key in ("src", "href", "xlink:href") if a.get(key)]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert {link[1:] for link in links if link[0] == "#"} <= set(ids)
    assert set(re.findall(r"url\(#(.*?)\)", html)) <= set(ids)
    assert "@import" not in html
    assert len(elements.of("svg")) == 2
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in elements.of("svg"))
    assert [image["alt"] for image in elements.of("img")] == ["Faces", "a face"]
    assert elements.of("audio")[0]["src"] == "data:audio/wav;base64,UklGRg=="


def test_what_a_user_writes_is_shown_and_not_obeyed(written):
    elements = Elements((written / "report.html").read_text(encoding="utf-8"))
    assert elements.of("script") == []
    assert (
        elements.text.count(NASTY) == 6
    )  # the title twice, the method, the name, the caption and the DET plot's title
    assert "A note with <b>HTML</b>." in elements.text
    (cell,) = re.findall(r"<td>(.*)</td>\n<td style=\"text-align:right\">5 %", (written / "report.html").read_text())
    assert cell == "&lt;script&gt;alert(1)&lt;/script&gt; a|b &amp; 'c' &quot;d&quot; [x](y) _e_"


def test_numbers_are_at_the_right_with_intervals_below_and_changes_in_colour(written):
    html = (written / "report.html").read_text(encoding="utf-8")
    assert '<td style="text-align:right">12.3 <small>[10, 15]</small></td>' in html
    assert "<del>-compute_cost: old</del>\n<ins>+compute_cost: &lt;new&gt;</ins>\n unchanged" in html


def test_the_same_in_markdown(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {literal(NASTY)}\n\n| method |")
    assert "![DET](det.png)" in text
    assert "\n- a face\n" in text
    assert "```diff\n-compute_cost: old\n" in text


def test_a_kind_that_a_page_cannot_show_is_refused():
    with pytest.raises(ValueError, match="kind is 'text/html': give a media type that begins with audio/ or image/"):
        Sample("a", b"", "text/html")


def luminance(colour):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_both_schemes_have_the_same_colours_with_enough_contrast():
    css = Path(page.__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root {(.*?)}", css, re.DOTALL)
    ]
    light, dark = schemes
    assert light.keys() == dark.keys()
    assert {variable: colour for colour, variable in plots.VARIABLES.items()}.items() <= light.items()
    for scheme in schemes:
        for paper in (scheme["paper"], scheme["band"]):  # WCAG 2.2: 4.5 for text, 3 for graphics
            assert min(contrast(scheme[name], paper) for name in ("ink", "soft", "accent", "plus", "minus")) >= 4.5
        assert min(contrast(colour, scheme["paper"]) for name, colour in scheme.items() if name[:6] == "series") >= 4.5


CHECK = """<script>
const shown = getComputedStyle(document.body).backgroundColor;
const inked = getComputedStyle(document.querySelector('svg text')).fill;
const broken = [...document.images].filter(image => !image.naturalWidth).length;
document.title = [document.documentElement.scrollWidth, innerWidth, shown, inked, broken].join(';');
</script></body>"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 500, 390])
def test_in_a_browser(written, scheme, width):
    """No error in the console, no horizontal scroll of the page, and the colours of the scheme, also in the figures.

    Chromium's window is at least 500 wide, so the narrow page is in a frame.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("there is no Chromium: apt-get install chromium")
    html = (written / "report.html").read_text(encoding="utf-8")
    (written / "checked.html").write_text(html.replace("</body>", CHECK), encoding="utf-8")
    frame = f'<iframe src="checked.html" style="width: {width}px; height: 900px; border: 0"></iframe>'
    told = "<script>onload = () => { document.title = frames[0].document.title }</script>"
    (written / "framed.html").write_text(f"<!DOCTYPE html><meta name=color-scheme content='light dark'>{frame}{told}")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
    ]
    options += [
        f"--user-data-dir={written / 'profile'}",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
    ]
    command = [
        browser,
        *options,
        "--window-size=1400,1000",
        "--virtual-time-budget=5000",
        "--dump-dom",
        written / "framed.html",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in result.stderr
    (told,) = re.findall(r"<title>(.*?)</title>", result.stdout)
    page_width, window, paper, ink, broken = told.split(";")
    assert int(page_width) == int(window) == width
    assert (paper, ink) == {
        "light": ("rgb(255, 255, 255)", "rgb(27, 31, 36)"),
        "dark": ("rgb(20, 24, 29)", "rgb(228, 232, 236)"),
    }[scheme]
    assert broken == "0"
