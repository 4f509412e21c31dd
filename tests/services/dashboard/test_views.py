"""Stories of the other views."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect


def show(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tabpanel", name=name)).to_be_visible()


def test_versions_stand_side_by_side_with_the_commands_that_move_them(page: Page, picture):
    show(page, "Models")
    panel = page.get_by_role("tabpanel", name="Models")
    expect(panel.get_by_text("champion", exact=True)).to_have_count(2)
    compared = re.compile(r"recall@20.*0\.284.*0\.251")
    expect(panel.get_by_role("row", name=compared)).to_be_visible()
    panel.get_by_text("Promote", exact=True).click()
    expect(
        panel.get_by_text(re.compile("errata registry promote .* --model recommender"))
    ).to_be_visible()
    panel.get_by_text(re.compile("Model card of")).first.click()
    expect(panel.get_by_role("cell", name="0.284", exact=True).last).to_be_visible()
    expect(panel.locator("strong", has_text="held-out")).to_be_visible()
    expect(panel.get_by_role("heading", name="Traffic classifier")).to_be_visible()
    picture(page, "models")


def test_an_outcome_is_remembered_and_counted(page: Page, picture):
    page.get_by_role("group", name="Some users").get_by_role("button").last.click()
    expect(page.get_by_role("heading", name=re.compile("History of"))).to_be_visible()
    for _ in range(3):
        clicked = page.locator(".result .title > span:first-child").first.inner_text()
        page.get_by_role("button", name=f"Click {clicked}", exact=True).click()
        expect(page.locator(".note")).to_contain_text(f"Clicked “{clicked}”")
    show(page, "Memory")
    expect(page.locator(".figure", has_text="outcomes counted")).to_be_visible()
    expect(page.get_by_text("watches", exact=True)).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("click"))).to_be_visible()
    picture(page, "memory")


def test_before_anything_passes_the_view_says_what_to_do(page: Page):
    show(page, "Traffic")
    expect(page.get_by_text("errata serve --interface eth0")).to_be_visible()
    expect(page.get_by_text("no live source; verdicts of uploads follow")).to_be_visible()


def test_a_capture_is_classified_and_a_flow_followed_packet_by_packet(
    page: Page, capture: Path, picture
):
    show(page, "Traffic")
    page.get_by_label("Classify a capture").set_input_files(capture)
    expect(page.get_by_text(re.compile(r"afternoon\.pcap: \d+ flows"))).to_be_visible()
    expect(page.locator(".figure", has_text="mean confidence")).to_be_visible()
    chart = page.get_by_role("img", name=re.compile("Confidence packet by packet: after packet 1"))
    expect(chart).to_be_visible()
    page.locator("button.flow").nth(5).click()
    expect(page.locator("tbody tr[aria-current=true] button.flow")).to_be_focused()
    expect(page.get_by_text(re.compile("Final:"))).to_be_visible()
    picture(page, "traffic")


def test_verdicts_arrive_live(page: Page, url: str, capture: Path):
    show(page, "Traffic")
    expect(page.get_by_text("no live source; verdicts of uploads follow")).to_be_visible()
    page.request.post(f"{url}/v1/classify", data=capture.read_bytes())
    expect(page.get_by_text("Newest flows")).to_be_visible()


def test_what_is_no_capture_is_refused_with_the_reason(page: Page, tmp_path: Path):
    show(page, "Traffic")
    (tmp_path / "notes.pcap").write_text("these are notes" * 100)
    page.get_by_label("Classify a capture").set_input_files(tmp_path / "notes.pcap")
    expect(page.get_by_role("alert")).to_contain_text("Not a capture")
