"""The report in a real browser: it loads alone, sorts, searches, answers to the pointer, fits."""

import os
import shutil

import pandas as pd
import pytest

from probejax.analysis.labels import signed
from probejax.analysis.report import report
from tests import test_report_examples
from tests.report_cases import CONFIG, TASKS, without_figures, write_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if not CHROMIUM or sync_playwright is None:
        reason = "no chromium on PATH, or no playwright; install Debian's package chromium"
        if os.environ.get("PROBEJAX_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as player:
        # Without a sandbox because CI runs as root in a container; the page is our own.
        running = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run and, beside it, one with the other protocol: two groups on one page."""
    root = tmp_path_factory.mktemp("browser")
    out = write_run(root / "run")
    strict = write_run(root / "strict", protocol="strict", config=CONFIG | {"protocol": "strict"})
    report(out, also=[strict], cache_dir=out / "no_cache")
    return out


def _open(browser, run, width=1280, height=900, **options):
    """Opens the report; `page.complaints` collects console messages, errors and requests."""
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.complaints.append(request.url))
    page.goto((run / "report.html").as_uri())
    return page


@pytest.fixture
def page(browser, run):
    opened = _open(browser, run)
    yield opened
    opened.close()


def test_it_loads_without_a_complaint_or_a_request(page, run):
    page.wait_for_load_state("networkidle")
    assert page.complaints == [(run / "report.html").as_uri(), "data:,"][: len(page.complaints)]
    assert page.title().startswith("Do SAE probes help? gemma-3-270m, resid_post.9, paper")


def test_the_verdict_is_on_the_first_screen_and_equals_the_table(page, run):
    quiver = pd.read_csv(run / "quiver.csv")
    rows = quiver[quiver["level"].isna() & (quiver["tie_rule"] == "documented")]
    rows = rows[rows["protocol"] == "paper"]
    text = page.locator("header").inner_text()
    for _, row in rows.iterrows():
        line = page.locator(f"header .forest .row:has(a[href='#{row['regime']}'])")
        shown = line.inner_text()
        assert signed(row["delta"]) in page.locator("header .numbers").inner_text()
        for value in (signed(row["delta"]), signed(row["ci_low"]), signed(row["ci_high"])):
            assert value in shown
        assert f"{row['baseline']:.4f} → {row['with_sae']:.4f}" in shown
        assert f"{row['wins']} : {row['losses']}" in shown
        assert line.bounding_box()["y"] + 20 < 900
    assert "adding SAE probes" in text and "Complete: 66 units" in text
    assert page.locator("header .answer").bounding_box()["y"] < 200


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_it(page):
    table = page.locator("#scarcity table.sortable").first
    button = table.locator("th button", has_text="test AUC")
    column = table.locator("tbody tr td:nth-child(2)")
    before = column.all_inner_texts()
    button.click()
    down = [float(text) for text in column.all_inner_texts()]
    assert down == sorted(down, reverse=True) and len(down) == 11
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("test AUC")
    button.click()
    assert [float(text) for text in column.all_inner_texts()] == down[::-1]
    assert sorted(before) == sorted(column.all_inner_texts())
    names = table.locator("tbody tr td:nth-child(1)")
    table.locator("th button", has_text="method").click()
    texts = [text.lower() for text in names.all_inner_texts()]
    assert texts[0].startswith("sae_k16") and texts[-1].startswith("logreg")
    table.locator("th button", has_text="minus logreg").click()
    assert names.all_inner_texts()[-1] == "logreg"  # an empty value stays last


def test_search_keeps_the_rows_that_hold_the_text(page):
    table = page.locator("#standard .table").first
    rows = table.locator("tbody tr:visible")
    assert rows.count() == 11
    table.locator("input").fill("SHUFFLED")
    assert rows.count() == 3 and all("shuffled" in text for text in rows.all_inner_texts())
    table.locator("input").fill("nothing like it")
    assert rows.count() == 0
    table.locator("input").fill("")
    assert rows.count() == 11
    tasks = page.locator("#tasks details.task:visible")
    assert tasks.count() == len(TASKS)
    page.locator("#tasks .search input").fill(TASKS[2])
    assert tasks.count() == 1 and TASKS[2] in tasks.first.inner_text()


def test_hover_shows_task_methods_and_aucs(page, run):
    results = pd.read_csv(run / "results.csv")
    tip = page.locator("#tip")
    assert not tip.is_visible()
    spot = page.locator("#scarcity figure.full [data-t]").first
    spot.scroll_into_view_if_needed()
    spot.hover()
    assert tip.is_visible()
    lines = tip.inner_text().split("\n")
    task, (level, change) = lines[0], lines[1].split(": ")
    assert task in TASKS
    before, after = (side.rsplit(" ", 1) for side in lines[2].split(" → "))
    cell = results[
        (results["task"] == task)
        & (results["regime"] == "scarcity")
        & (results["level"] == float(level))
        & (results["protocol"] == "paper")
    ]
    for name, auc in (before, after):
        method = name.partition(" (")[0]
        assert (cell[cell["method"] == method]["test_auc"].round(3) == float(auc)).any()
    assert (
        change == signed(float(after[1]) - float(before[1]), 3)
        or change == "0.000"
        or (
            abs(float(change.replace("\N{MINUS SIGN}", "-")) - float(after[1]) + float(before[1]))
            < 0.0011
        )
    )
    page.mouse.move(5, 5)
    assert not tip.is_visible()
    page.locator("#standard figure [data-t]").first.hover(force=True)
    assert tip.inner_text().split("\n")[0] in TASKS
    page.locator(".forest .hit").first.hover()
    assert "Standard conditions\nchange " in tip.inner_text()


def test_every_link_inside_the_page_leads_somewhere(page):
    broken = page.evaluate(
        """[...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute("href").slice(1))
           .filter(id => !document.getElementById(id))"""
    )
    assert broken == []
    repeated = page.evaluate(
        """(() => { const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
           return ids.filter((id, i) => ids.indexOf(id) !== i) })()"""
    )
    assert repeated == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_overflows_sideways(browser, run, width):
    page = _open(browser, run, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """[...document.querySelectorAll("header *, figcaption, h2, .stats *, .legend *")]
           .filter(e => !e.closest("svg") && e.getBoundingClientRect().right > innerWidth + 1)
           .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert cut == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_legible(browser, run, scheme):
    page = _open(browser, run, color_scheme=scheme)
    ratio = page.evaluate(
        """(() => {
          const light = (rgb) => {
            const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const [r, g, b] = rgb.match(/\\d+/g).map(v => linear(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const paper = light(getComputedStyle(document.body).backgroundColor);
          const contrast = (e, what) => {
            const x = light(getComputedStyle(e)[what]);
            return (Math.max(x, paper) + 0.05) / (Math.min(x, paper) + 0.05);
          };
          const all = (selector) => [...document.querySelectorAll(selector)];
          const text = all(".answer, small, dt, th, td, .legend, figcaption, nav a, .status");
          const marks = all(".chart text, .strip text");
          return [paper, Math.min(...text.map(e => contrast(e, "color"))),
                  Math.min(...marks.map(e => contrast(e, "fill")))];
        })()"""
    )  # fmt: skip
    assert (ratio[0] > 0.9) == (scheme == "light") and (ratio[0] < 0.05) == (scheme == "dark")
    assert ratio[1] >= 4.5 and ratio[2] >= 4.5  # WCAG AA
    page.close()


def test_print_leaves_out_what_cannot_be_used_on_paper(browser, run):
    page = _open(browser, run, color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("#scarcity .search").first.is_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    dot = page.evaluate("getComputedStyle(document.querySelector('.forest .dot')).fill")
    assert dot == "rgb(11, 111, 179)"  # the light scheme's, though the screen is dark
    assert page.locator("header .forest").is_visible() and len(page.pdf()) > 20_000
    page.close()


def test_everything_is_unfolded_on_paper_and_as_before_afterwards(browser, run):
    page = _open(browser, run)
    folded = page.locator("details:not([open])")
    before = folded.count()
    page.evaluate(
        "window.seen = 0; addEventListener('beforeprint', () => { window.seen = "
        "document.querySelectorAll('details:not([open])').length + 1; })"
    )
    assert before > len(TASKS) and len(page.pdf(format="A4")) > 20_000
    assert page.evaluate("window.seen") == 1  # the page's own listener came first
    assert folded.count() == before
    page.close()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The address of a page of examples, with texts and a chart, and of the report beside it."""
    out = test_report_examples.write(tmp_path_factory.mktemp("examples") / "a")
    with without_figures(charts=True):
        report(out, cache_dir=out / "no_cache")
    return out / "examples" / "mine.html", out / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (390, "light"), (1280, "light")])
def test_a_page_of_examples_loads_fits_and_is_legible(browser, examples, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked = []
    page.on("console", lambda message: asked.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(examples[1].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    page.get_by_role("link", name="Scores by class, the prompts").click()
    page.wait_for_load_state("networkidle")
    assert [each for each in asked if not each.startswith("data:")] == [
        examples[1].as_uri(), examples[0].as_uri()
    ]  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h3").count() == 3 and page.locator("mark").first.inner_text() == "end1"
    assert page.evaluate(CUT) == []
    contrast = page.evaluate(
        """(() => {
          const light = (rgb) => {
            const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const [r, g, b] = rgb.match(/\\d+/g).map(v => linear(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const style = getComputedStyle(document.querySelector("mark"));
          const [x, y] = [light(style.color), light(style.backgroundColor)].sort();
          return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
        })()"""
    )
    assert contrast >= 4.5  # WCAG AA
    page.get_by_role("link", name="Report").click()
    assert page.url == examples[1].as_uri()
    page.close()


CUT = """[...document.querySelectorAll("figure svg.chart text, .strip text")].filter(text => {
  const svg = text.ownerSVGElement;
  const frame = text.closest(".full") ? svg : text.closest("figure, body");
  const [a, b] = [text.getBoundingClientRect(), frame.getBoundingClientRect()];
  return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top || a.bottom > b.bottom;
}).map(text => text.textContent)"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_text_of_a_chart_is_cut(browser, run, width):
    page = _open(browser, run, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.evaluate(CUT) == []
    page.close()
