"""What holds for every view: keyboard, contrast, both themes, small screens, small files."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from services.dashboard.app import STATIC

VIEWS = ("Recommend", "Traffic", "Memory", "Models")
SERIOUS = {"serious", "critical"}


def settled(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
    expect(page.get_by_role("tabpanel", name=name).locator("h2").first).to_be_visible()
    expect(page.get_by_role("tabpanel", name=name)).not_to_have_attribute("aria-busy", "true")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_anybody(page: Page, theme: str):
    page.emulate_media(color_scheme=theme)
    for name in VIEWS:
        settled(page, name)
        found = Axe().run(page).response["violations"]
        serious = [
            (name, each["id"], each["nodes"][0]["html"])
            for each in found
            if each["impact"] in SERIOUS
        ]
        assert serious == []


def test_views_are_reached_by_keyboard_and_by_address(page: Page, url: str):
    page.get_by_role("tab", name="Recommend").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Traffic")).to_be_focused()
    page.keyboard.press("End")
    expect(page.get_by_role("tabpanel", name="Models")).to_be_visible()
    page.goto(f"{url}/#memory")
    expect(page.get_by_role("tab", name="Memory")).to_have_attribute("aria-selected", "true")


def test_a_chosen_theme_stays(page: Page):
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Browser, url: str, picture):
    context = browser.new_context(viewport={"width": 390, "height": 844}, device_scale_factor=1)
    page = context.new_page()
    page.goto(url)
    for name in VIEWS:
        settled(page, name)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, name
    page.get_by_role("tab", name="Recommend").click()
    picture(page, "phone")
    context.close()


def test_a_key_is_asked_for_and_sent(page: Page):
    page.get_by_role("button", name="Key").click()
    page.get_by_label("Key", exact=True).fill("errata_secret")
    with page.expect_request(re.compile("/v1/recommendations")) as asked:
        page.get_by_role("button", name="Use it").click()
    assert asked.value.headers["authorization"] == "Bearer errata_secret"


def test_the_page_is_small_and_needs_nothing_from_elsewhere(page: Page, url: str):
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.reload()
    for name in VIEWS:
        settled(page, name)
    assert hosts == {url.split("/")[2]}
    names = {path.name for path in files}
    for path in files:
        for wanted in re.findall(
            r"""from "\./([^"]+)"|(?:src|href)="([\w.-]+)\"""", path.read_text()
        ):
            assert "".join(wanted) in names, path.name


def test_the_first_paint_comes_within_a_second(browser: Browser, url: str):
    """The best of a few fresh visits: another process may hold the machine for one of them."""
    paints: list[float] = []
    while len(paints) < 5 and (not paints or min(paints) >= 1_000):
        context = browser.new_context(viewport={"width": 1360, "height": 860})
        page = context.new_page()
        page.goto(url)
        expect(page.locator(".result")).to_have_count(12)
        paints.append(
            page.evaluate(
                "performance.getEntriesByType('paint')"
                ".find((each) => each.name === 'first-contentful-paint').startTime"
            )
        )
        sent = page.evaluate(
            "performance.getEntriesByType('resource').concat("
            "performance.getEntriesByType('navigation'))"
            ".filter((each) => !each.name.includes('/v1/'))"
            ".reduce((sum, each) => sum + each.transferSize, 0)"
        )
        assert 0 < sent < 300_000
        context.close()
    assert min(paints) < 1_000, paints


def test_a_service_that_has_gone_is_said_to_be(page: Page):
    expect(page.locator(".result")).to_have_count(12)
    page.context.set_offline(True)
    page.locator(".result").first.get_by_role("button").first.click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".result")).to_have_count(12)
