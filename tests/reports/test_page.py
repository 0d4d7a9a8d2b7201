"""The page in a real browser: no requests, no errors, and everything visible on wide and narrow screens."""

import shutil

import pytest

from tests.shared.reports import case, report
from virnuc.reports.content import AllRows, Section
from virnuc.reports.figures import comparison_drawings
from virnuc.reports.rendering import HTML, Page, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module", params=["pass", "several"])
def page_file(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    comparison = case(request.param)
    drawings = comparison_drawings(comparison)
    document, _ = report(comparison, directory, drawings)
    return directory / HTML, document, len(drawings)


def opened(browser, path, width, **options):
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.complaints, page.fetched = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.fetched.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    return page


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (800, "dark"), (1400, "light"), (1400, "dark")])
def test_page_is_whole_at_any_width(browser, page_file, width, scheme):
    path, document, figures = page_file
    page = opened(browser, path, width, color_scheme=scheme)
    assert page.complaints == []
    assert page.fetched == [path.as_uri()]
    assert "sans-serif" in page.evaluate("getComputedStyle(document.body).fontFamily")
    assert "✓" in page.evaluate("getComputedStyle(document.querySelector('th.pass'), '::before').content")
    told = [f"{verdict['outcome']} {verdict['answer']}" for verdict in document["verdicts"]]
    assert page.eval_on_selector_all(".answer", "all => all.map(e => e.innerText)") == told
    drawn = page.eval_on_selector_all("figure img", "all => all.map(i => [i.complete, i.naturalWidth, i.alt.length])")
    assert len(drawn) == figures
    assert all(complete and size > 100 and words > 20 for complete, size, words in drawn)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.eval_on_selector_all("pre", "all => all.filter(e => e.scrollWidth > e.clientWidth).length") == 0
    cut = "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert page.eval_on_selector_all("tbody td, tbody th, p, li, img", cut) == 0


def test_text_stands_out_from_its_background(browser, page_file):
    """All text has a contrast of at least 4.5 to 1 (WCAG level AA), in light and dark mode."""
    for scheme in ("light", "dark"):
        page = opened(browser, page_file[0], 1200, color_scheme=scheme)
        assert page.evaluate(CONTRAST) >= 4.5


CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let worst = 21;
  for (const e of document.querySelectorAll('p, li, td, th, h1, h2, h3, small, strong, figcaption, code')) {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    worst = Math.min(worst, (a + .05) / (b + .05));
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A page with a table of 50,000 rows, one with a hostile name."""
    names = [f"contig_{number}" for number in range(49_999)] + ["<img src=x onerror=alert(1)>"]
    calls = ("virus", "no virus", "contains viral regions")
    rows = [[name, number * 7919 % 50_000, calls[number % 3]] for number, name in enumerate(names)]
    section = Section("rows", "Rows", everything=AllRows(("Sequence", "bp", "Call"), rows))
    page = Page("summary", "Many", "done", "All.", (), (section,), {}, "")
    directory = tmp_path_factory.mktemp("many")
    write_page(page, directory, "many")
    return directory / "many.html"


def test_a_table_of_50_000_rows_sorts_and_filters(browser, many):
    from playwright.sync_api import expect

    page = opened(browser, many, 1400)
    first = page.locator("#everything tbody tr td")
    assert first.nth(0).inner_text() == "contig_0" and "50,000" in page.locator(".dt-info").inner_text()
    head = page.locator("#everything thead th").nth(1)
    head.click()
    expect(first.nth(1)).to_have_text("0")
    head.click()
    expect(first.nth(1)).to_have_text("49999")
    page.locator("#call").select_option("contains viral regions")
    expect(page.locator(".dt-info")).to_contain_text("16,666 entries")
    assert set(page.locator("#everything tbody tr td:nth-child(3)").all_inner_texts()) == {"contains viral regions"}
    page.locator("#call").select_option("every call")
    page.locator(".everything input[type=search]").fill("onerror")
    expect(first.nth(0)).to_have_text("<img src=x onerror=alert(1)>")
    assert page.complaints == [] and page.fetched == [many.as_uri()]
    page.close()
