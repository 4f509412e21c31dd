"""Stories of the Recommend view, in a browser, against the service."""

import re

from playwright.sync_api import Page, expect


def titles(page: Page) -> list[str]:
    return page.locator(".result .title > span:first-child").all_inner_texts()


def choose(page: Page) -> str:
    """Choose one of the suggested users; returns who."""
    chip = page.get_by_role("group", name="Some users").get_by_role("button").first
    user = chip.inner_text()
    chip.click()
    expect(page.get_by_role("heading", name=f"History of {user}")).to_be_visible()
    return user


def test_a_stranger_is_shown_what_is_popular_and_told_what_to_do(page: Page):
    expect(page.locator(".result")).to_have_count(12)
    expect(page.get_by_text("these are the most popular items")).to_be_visible()
    expect(page.locator("#health")).to_have_text("well")


def test_a_history_is_built_by_searching_titles(page: Page):
    expect(page.locator(".result")).to_have_count(12)
    before = titles(page)
    search = page.get_by_role("combobox", name="Or items somebody liked")
    search.fill("war")
    expect(page.get_by_role("option").first).to_be_visible()
    search.press("ArrowDown")
    chosen = page.locator("[role=option][aria-selected=true] span").inner_text()
    search.press("Enter")
    expect(page.locator(".history li span").first).to_have_text(chosen)
    expect(page.locator(".why").first).to_contain_text(chosen)
    assert titles(page) != before
    assert chosen not in titles(page)


def test_a_search_without_a_match_says_so(page: Page):
    page.get_by_role("combobox", name="Or items somebody liked").fill("zzzz")
    expect(page.get_by_text("No title has “zzzz”")).to_be_visible()


def test_a_users_click_and_dismissal_change_the_list(page: Page):
    choose(page)
    expect(page.locator(".why").first).to_be_visible()
    expect(page.locator("canvas")).to_have_attribute("aria-label", re.compile("12 recommended"))
    clicked = titles(page)[0]
    page.get_by_role("button", name=f"Click {clicked}", exact=True).click()
    expect(page.locator(".history li span").first).to_have_text(clicked)
    expect(page.locator(".note")).to_contain_text(f"Clicked “{clicked}”")
    assert clicked not in titles(page)
    dismissed = titles(page)[1]
    page.get_by_role("button", name=f"Dismiss {dismissed}", exact=True).click()
    expect(page.locator(".note")).to_contain_text(f"Dismissed “{dismissed}”")
    assert dismissed not in titles(page)


def test_a_dot_of_the_map_can_be_pointed_at_and_taken_into_the_history(page: Page, url: str):
    canvas = page.locator("canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("lit$"))
    found = page.request.get(f"{url}/v1/map").json()
    box = canvas.bounding_box()
    assert box is not None
    x, y = found["xy"][0]
    place = {"x": x * box["width"], "y": (1 - y) * box["height"]}
    canvas.hover(position=place)
    pointed = page.locator(".tip").inner_text()
    assert pointed in found["titles"]
    canvas.click(position=place)
    expect(page.locator(".history li span").first).to_have_text(pointed)
