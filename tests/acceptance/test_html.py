"""report.html in a real browser: headless Chromium through its driver."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyhpc.acceptance.formats.html import render
from pyhpc.acceptance.judge import judge
from pyhpc.acceptance.report import make_report

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync")
SECTIONS = ("coverage", "problems", "machine", "roofline", "allreduce", "distributions", "table", "reproduce")


def sample_report(make, matmul=1.25e-3, host="n0"):
    """A run of three steps with a roofline; slower `matmul` seconds make it fail."""
    plan = make.plan()
    plan = plan.model_copy(update={"machine": plan.machine.model_copy(update={"host": host})})
    found = make.records(plan, matmul=matmul)
    bandwidth = make.record(plan.steps[0], 0, make.times(1e-3)).model_copy(
        update={"kernel": "memory", "case": "read DRAM", "problem": {"level": "DRAM"}, "step": "memory"}
    )
    series = bandwidth.metrics["flops_per_second"].model_copy(update={"unit": "B/s"})
    bandwidth = bandwidth.model_copy(update={"metrics": {"bytes_per_second": series}})
    return make_report(plan, [*found, bandwidth], judge(plan, found), Path("run"), "pyhpc accept synthetic.toml")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver on PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "window-size=1100,1400", f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def open_report(browser, folder, report):
    path = folder / "report.html"
    path.write_text(render(report))
    browser.get(path.as_uri())


@pytest.mark.parametrize(
    ("matmul", "answer", "color"), [(1.25e-3, "ACCEPTED", "31, 122, 77"), (1e-2, "REJECTED", "179, 38, 30")]
)
def test_the_verdict_comes_first_in_its_color(browser, make, tmp_path, matmul, answer, color):
    open_report(browser, tmp_path, sample_report(make, matmul))
    title = browser.find_element("id", "answer")
    assert title.text == answer
    assert title.location["y"] < 60
    header = browser.find_element("tag name", "header").value_of_css_property("background-color")
    assert color in header


def test_every_section_is_there_with_its_picture_and_nothing_overflows(browser, make, tmp_path):
    open_report(browser, tmp_path, sample_report(make, 1e-2))
    heights = [browser.find_element("id", name).location["y"] for name in SECTIONS]
    assert heights == sorted(heights)
    pictures = browser.find_elements("css selector", "figure svg")
    assert len(pictures) == 5  # roofline, all-reduce, and one distribution for each of the three steps
    assert all(picture.size["height"] > 60 for picture in pictures)
    width = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    assert browser.get_log("browser") == []


def test_each_failure_is_one_sentence_that_names_who_and_how_much(browser, make, tmp_path):
    report = sample_report(make, 1e-2)
    open_report(browser, tmp_path, report)
    told = browser.find_element("css selector", "ul.problems").text
    failed = [verdict.reason for verdict in report.verdicts if verdict.outcome == "fail"]
    assert failed
    assert all(reason in told for reason in failed)


def test_it_prints_to_pdf(browser, make, tmp_path):
    open_report(browser, tmp_path, sample_report(make))
    assert len(browser.print_page()) > 20_000


def test_the_file_needs_no_network_and_runs_no_script(make):
    text = render(sample_report(make))
    assert "<script" not in text
    links = [word for word in text.split('"') if word.startswith(("http:", "https:"))]
    assert all(link.startswith("http://www.w3.org/") for link in links), links  # names of formats, not addresses
    assert "src=" not in text


def test_what_a_machine_says_of_itself_is_escaped(make):
    assert "<img onerror" not in render(sample_report(make, host="<img onerror=alert(1)>"))


def test_the_same_report_gives_the_same_bytes(make):
    report = sample_report(make)
    assert render(report) == render(report)
