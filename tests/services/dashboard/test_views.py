"""Stories of the other views."""

import re
import shutil
import time
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from feature_store.registry import Registry
from tests.services.dashboard.conftest import PICTURES


def show(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tabpanel", name=name)).to_be_visible()


def measured(page: Page, url: str, name: str = "ndcg@20") -> list[str]:
    """A figure of each version of the recommender, as the page shows it."""
    found = page.request.get(f"{url}/v1/models/recommender").json()["versions"]
    return [f"{each['metrics'][name]:#.3g}" for each in found]


def test_versions_stand_side_by_side_with_the_traffic_models_card(page: Page, url: str, picture):
    show(page, "Models")
    panel = page.get_by_role("tabpanel", name="Models")
    expect(panel.get_by_role("region", name="Versions of").get_by_text("champion")).to_have_count(2)
    older, newer = measured(page, url)
    compared = re.compile(rf"ndcg@20 *{newer} *{older}")
    expect(panel.get_by_role("row", name=compared)).to_be_visible()
    panel.get_by_text(re.compile("Model card of")).last.click()
    expect(panel.locator(".prose").last.get_by_role("heading").first).to_be_visible()
    expect(panel.locator(".prose").last.get_by_role("table").first).to_be_visible()
    picture(page, "models", height=1_600)


def test_a_version_is_promoted_and_rolled_back_from_the_page(page: Page, url: str):
    older, newer = measured(page, url)
    show(page, "Models")
    panel = page.get_by_role("tabpanel", name="Models")
    panel.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"ndcg@20 {older} (now {newer})")
    dialog.get_by_text("From a shell").click()
    command = re.compile("errata registry promote .* --model recommender")
    expect(dialog.get_by_text(command)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    panel.get_by_role("button", name="Promote").click()
    dialog.get_by_role("button", name="Promote").click()
    note = panel.get_by_role("status").first
    expect(note).to_contain_text(" serves, in place of ", timeout=30_000)
    panel.get_by_role("button", name="Roll back").first.click()
    dialog.get_by_role("button", name="Roll back").click()
    expect(note).to_contain_text(" serves, in place of ", timeout=30_000)
    expect(panel.get_by_role("row", name=re.compile(rf"{newer} *{older}"))).to_be_visible()


def test_what_was_learned_corrects_lists_and_is_shown_over_time(page: Page, url: str, picture):
    taught(url)
    page.get_by_role("combobox", name="A user").fill(corrected_user(url))
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name=re.compile("History of"))).to_be_visible()
    corrected = re.compile(r"corrected by \d+ recent errors?")
    expect(page.locator(".correction", has_text=corrected).first).to_be_visible()
    expect(page.locator("canvas")).to_have_attribute("aria-label", re.compile("12 recommended"))
    picture(page, "recommend")
    show(page, "Memory")
    panel = page.get_by_role("tabpanel", name="Memory")
    expect(panel.get_by_text("corrects", exact=True).first).to_be_visible()
    chart = panel.get_by_role("img", name=re.compile(r"own predictions [\d.]+, corrected [\d.]+"))
    expect(chart.first).to_be_visible()
    expect(panel.locator(".figure", has_text="hit rate").first).to_contain_text("%")
    expect(panel.get_by_role("region", name="Loudest entries of the recommender")).to_be_visible()
    picture(page, "memory", height=1_080)


def test_an_entry_is_forgotten_from_the_page(page: Page, url: str):
    taught(url)
    show(page, "Memory")
    panel = page.get_by_role("region", name="Loudest entries of the recommender")
    entry = panel.get_by_role("button").first
    name = entry.get_attribute("data-key")
    entry.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Every replica goes on as if that had never been said")
    dialog.get_by_role("button", name="Forget").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(f'[data-key="{name}"]')).to_have_count(0)


def corrected_user(url: str) -> str:
    """Somebody whose list remembered errors correct."""
    with httpx.Client(base_url=url, timeout=30) as client:
        for user in client.get("/v1/users", params={"k": 100}).json()["users"]:
            asked = {"user_id": user, "k": 12, "explain": True}
            items = client.post("/v1/recommendations", json=asked).json()["items"]
            if any(fix.get("errors") for item in items for fix in item["corrections"]):
                return str(user)
    raise AssertionError("nobody's list is corrected")


def taught(url: str) -> None:
    """Outcomes enough for the recommender's memory to speak: a crowd takes the third of each list
    and leaves the first."""
    with httpx.Client(base_url=url, timeout=30) as client:

        def speaks() -> bool:
            found = client.get("/v1/memory").json()["memories"]
            return bool(found[0]["gate_open"])

        users = client.get("/v1/users", params={"k": 30}).json()["users"]
        known = [liked(client, each) for each in users]
        deadline = time.monotonic() + 120
        number = 0
        while not speaks():
            assert time.monotonic() < deadline, "the memory did not come to speak"
            for _ in range(60):
                number += 1
                visited(client, f"visitor-{number}", known[number % len(known)])


def liked(client: httpx.Client, user: str) -> list[str]:
    """Some of a user's history."""
    events = client.get(f"/v1/users/{user}/history").json()["events"]
    return [each["item_id"] for each in events][-8:]


def visited(client: httpx.Client, visitor: str, history: list[str]) -> None:
    """Somebody with the history of another user takes the third of a list and leaves the first."""
    answer = client.post("/v1/recommendations", json={"history": history, "k": 8}).json()
    for place, kind in ((0, "dismiss"), (2, "click")):
        client.post(
            "/v1/feedback",
            json={
                "user_id": visitor,
                "item_id": answer["items"][place]["item_id"],
                "type": kind,
                "prediction_id": answer["prediction_id"],
            },
        )


def test_a_version_that_was_published_meanwhile_is_marked(
    page: Page, url: str, home: Path, tmp_path: Path
):
    taught(url)
    (tmp_path / "model").write_text("never served")
    version = (
        Registry(home / "registry")
        .publish(
            "recommender",
            tmp_path,
            data_fingerprint="test",
            code_version="test",
            config={},
            metrics={},
        )
        .version
    )
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            history = liked(client, client.get("/v1/users").json()["users"][0])
            for number in range(40):
                visited(client, f"later-{number}", history)
        show(page, "Memory")
        panel = page.get_by_role("tabpanel", name="Memory")
        chart = panel.get_by_role("img", name=re.compile("retrained 1 time,"))
        expect(chart).to_be_visible()
        expect(chart.locator("line.mark")).to_have_count(1)
        expect(panel.get_by_text("retrained (1)")).to_be_visible()
    finally:  # others count the versions
        shutil.rmtree(home / "registry" / "recommender" / "versions" / version)


def test_before_anything_passes_the_view_says_what_to_do(page: Page):
    show(page, "Traffic")
    expect(page.get_by_text("errata serve --interface eth0")).to_be_visible()
    expect(page.get_by_text("no live source here; verdicts of uploads follow")).to_be_visible()


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


def test_a_label_takes_two_clicks_and_changes_how_neighbours_are_read(
    page: Page, capture: Path, url: str, picture
):
    show(page, "Traffic")
    page.get_by_label("Classify a capture").set_input_files(capture)
    expect(page.get_by_text(re.compile(r"afternoon\.pcap: \d+ flows"))).to_be_visible()
    row = page.locator("tbody tr", has_text="chat").locator("button.flow").first
    # One label may leave it undecided: somebody has said the same of flows like it before.
    port = re.search(r":(\d+) →", row.inner_text())
    again = page.request.post(f"{url}/v1/classify", data=capture.read_bytes()).json()["verdicts"]
    same = next(each for each in again if port and each["source_port"] == int(port[1]))
    for each in alike(page, url, same)[: 13 if PICTURES else 1]:
        said = {"prediction_id": each["prediction_id"], "label": "lookup", "source": "dashboard"}
        assert page.request.post(f"{url}/v1/labels", data=said).json()["learned"] == 1
    row.click()
    near = page.get_by_role("region", name="Neighbours of the flow")
    expect(near.get_by_role("row")).to_have_count(7)
    page.locator(".labelling").get_by_role("button", name="lookup").click()
    learned = page.locator(".learned")
    told = re.compile(r"Of the 12 flows most like it, (1 is|(?!1 )\d+ are) now read differently")
    expect(learned).to_contain_text(told)
    # The flow itself is read anew, and what is like it at least less surely.
    chosen = page.locator("tr[aria-current=true]")
    expect(chosen.locator("s")).to_have_text("chat")
    # A model that asks for much confidence calls it unknown before it believes the label.
    expect(chosen.locator(".label")).to_have_text(
        re.compile("lookup|unknown" if PICTURES else "lookup")
    )
    expect(near.locator("s").first).to_be_visible()
    picture(page, "traffic", height=1_320)
    forgotten = page.request.post(
        f"{url}/v1/memory/traffic/forget", data={"source_name": "dashboard"}
    )
    assert forgotten.ok


def alike(page: Page, url: str, verdict: dict) -> list[dict]:
    """A flow's verdict, and those on the flows most like it."""
    path = f"{url}/v1/verdicts/{verdict['prediction_id']}/neighbours"
    return [each["verdict"] for each in page.request.get(path).json()["flows"]]


def test_a_drift_rings_and_is_marked_on_the_memory_tab(page: Page, capture: Path, url: str):
    """The classifier is right for a while, and then wrong: its error rises."""
    with httpx.Client(base_url=url, timeout=60) as client:
        body = capture.read_bytes()
        uploads = [client.post("/v1/classify", content=body).json()["verdicts"] for _ in range(4)]
        classes = sorted({each["guess"] for each in uploads[0]})
        for verdicts, right in zip(uploads, (True, True, True, False), strict=True):
            labels = [
                {
                    "prediction_id": each["prediction_id"],
                    "label": classes[classes.index(each["guess"]) - (not right)],
                    "source": "drift",
                }
                for each in verdicts[:1_000]
            ]
            answer = client.post("/v1/labels", json={"labels": labels}).json()
            assert answer["learned"] == len(labels)
        show(page, "Memory")
        card = page.locator(".card", has=page.get_by_role("heading", name="Traffic classifier"))
        alarms = card.locator(".figure", has_text="drift alarms").locator("dd")
        expect(alarms).to_have_text(re.compile("[1-9]"))
        chart = card.get_by_role("img", name=re.compile("1 drift alarm$"))
        expect(chart).to_be_visible()
        mark = chart.locator("line.alarm")
        expect(mark).to_have_count(1)
        # It rang when the labels had begun to be wrong: in the last quarter of what is drawn.
        box, drawn = mark.bounding_box(), chart.bounding_box()
        assert box is not None
        assert drawn is not None
        assert box["x"] > drawn["x"] + 0.6 * drawn["width"]
        card.scroll_into_view_if_needed()
        client.post("/v1/memory/traffic/forget", json={"source_name": "drift"}).raise_for_status()
        expect(alarms).to_have_text("0")


def test_verdicts_arrive_live(page: Page, url: str, capture: Path):
    show(page, "Traffic")
    expect(page.get_by_text("no live source here; verdicts of uploads follow")).to_be_visible()
    page.request.post(f"{url}/v1/classify", data=capture.read_bytes())
    expect(page.get_by_text("Newest flows")).to_be_visible()


def test_what_is_no_capture_is_refused_with_the_reason(page: Page, tmp_path: Path):
    show(page, "Traffic")
    (tmp_path / "notes.pcap").write_text("these are notes" * 100)
    page.get_by_label("Classify a capture").set_input_files(tmp_path / "notes.pcap")
    expect(page.get_by_role("alert")).to_contain_text("Not a capture")
