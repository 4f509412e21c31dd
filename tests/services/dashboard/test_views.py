"""Stories of the other views."""

import re

from playwright.sync_api import Page, expect


def show(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tabpanel", name=name)).to_be_visible()


def test_versions_stand_side_by_side_with_the_commands_that_move_them(page: Page, picture):
    show(page, "Models")
    panel = page.get_by_role("tabpanel", name="Models")
    expect(panel.get_by_text("champion", exact=True)).to_have_count(1)
    compared = re.compile(r"recall@20.*0\.284.*0\.251")
    expect(panel.get_by_role("row", name=compared)).to_be_visible()
    panel.get_by_text("Promote", exact=True).click()
    expect(
        panel.get_by_text(re.compile("errata registry promote .* --model recommender"))
    ).to_be_visible()
    panel.get_by_text(re.compile("Model card of")).first.click()
    expect(panel.get_by_role("cell", name="0.284", exact=True).last).to_be_visible()
    expect(panel.locator("strong", has_text="held-out")).to_be_visible()
    expect(panel.get_by_text("errata train traffic --data DIR --promote")).to_be_visible()
    picture(page, "models")


def test_feedback_is_counted_where_the_memory_is_shown(page: Page, picture):
    page.get_by_role("group", name="Some users").get_by_role("button").last.click()
    expect(page.get_by_role("heading", name=re.compile("History of"))).to_be_visible()
    page.get_by_role("button", name=re.compile("^Click ")).first.click()
    expect(page.locator(".note")).to_contain_text("Clicked")
    show(page, "Memory")
    expect(page.get_by_text("feedback applied")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("click"))).to_be_visible()
    picture(page, "memory")


def test_without_traffic_the_view_says_what_to_do(page: Page):
    show(page, "Traffic")
    expect(page.get_by_text("errata classify trace.pcap")).to_be_visible()
