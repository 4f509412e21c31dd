"""The page where the service asks for keys, while a capture is replayed there."""

import re

from playwright.sync_api import Page, expect

from tests.services.dashboard.conftest import Guarded


def enter(page: Page, secret: str) -> None:
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("Key", exact=True).fill(secret)
    dialog.get_by_role("button", name="Use it").click()


def test_a_replayed_capture_is_watched_live(stranger: Page, guarded: Guarded):
    enter(stranger, guarded.keys["read"])
    stranger.get_by_role("tab", name="Traffic").click()
    expect(stranger.get_by_text(re.compile("watching .*live.pcap"))).to_be_visible()
    panel = stranger.get_by_role("tabpanel", name="Traffic")
    expect(panel.get_by_text("Newest flows")).to_be_visible()
    rate = panel.locator(".figure", has_text="flows a second").locator("dd")
    expect(rate).not_to_have_text("0.0")
    mix = panel.get_by_role("img", name=re.compile(r"Class mix over time; lately \w+ \d+"))
    expect(mix).to_be_visible()
    for name in ("unknown", "mean confidence"):
        expect(panel.locator(".figure", has_text=name)).to_contain_text("%")
    expect(panel.get_by_role("img", name=re.compile("Confidence of the verdicts"))).to_be_visible()
    # A flow that had begun before anybody listened is seen from where it was.
    life = re.compile(r"Confidence packet by packet: after packet \d+ \w+ at \d+")
    expect(panel.get_by_role("img", name=life)).to_be_visible()
    counted = panel.locator(".figure dd").first
    before = int(counted.inner_text())
    expect(counted).not_to_have_text(str(before))


def test_without_a_key_the_page_asks_for_one_and_then_works(stranger: Page, guarded: Guarded):
    dialog = stranger.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("This service asks for a key.")
    enter(stranger, "errata_wrong")
    expect(dialog).to_contain_text("unknown, revoked or expired")
    enter(stranger, guarded.keys["read"])
    expect(stranger.locator(".result")).to_have_count(12)
    expect(dialog).to_be_hidden()


def test_who_declines_is_told_what_is_missing_and_not_asked_again(stranger: Page):
    dialog = stranger.get_by_role("dialog", name="API key")
    dialog.get_by_role("button", name="Cancel").click()
    expect(stranger.get_by_role("alert").first).to_contain_text("A key is needed")
    stranger.get_by_role("tab", name="Models").click()
    alert = stranger.get_by_role("tabpanel", name="Models").get_by_role("alert").first
    expect(alert).to_contain_text("A key is needed")
    expect(dialog).to_be_hidden()
    alert.get_by_role("button", name="Enter a key").click()
    expect(dialog).to_be_visible()


def test_promoting_needs_an_admin_key(stranger: Page, guarded: Guarded):
    enter(stranger, guarded.keys["read"])
    stranger.get_by_role("tab", name="Models").click()
    panel = stranger.get_by_role("tabpanel", name="Models")
    panel.get_by_role("button", name="Promote").click()
    dialog = stranger.get_by_role("dialog")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.get_by_role("alert")).to_contain_text("lacks the scope 'admin'")
    dialog.get_by_role("button", name="Cancel").click()
    stranger.get_by_role("button", name="Key", exact=True).click()
    enter(stranger, guarded.keys["admin"])
    panel.get_by_role("button", name="Promote").click()
    dialog.get_by_role("button", name="Promote").click()
    status = panel.get_by_role("status").first
    expect(status).to_contain_text(" serves, in place of ", timeout=30_000)
